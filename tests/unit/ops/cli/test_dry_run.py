"""Every command that writes uses the same sentence at the end of its dry run."""

from pathlib import Path

import ops
from ops.cli.output import dry_run

ROOT = Path(ops.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
OUTPUT, OPERATOR = "cli/output.py", "cli/operator.py"
WRITING = {name for name, text in SOURCES.items() if "audited_action(" in text and name != OPERATOR}


def test_the_sentence_names_the_effect_and_the_options() -> None:
    """What would happen, and how to make it happen."""
    assert dry_run("40 records would be replayed", "replay them") == (
        "Dry run: 40 records would be replayed. To replay them: add --apply --reason TEXT."
    )


def test_every_command_that_writes_ends_its_dry_run_with_the_sentence() -> None:
    """A module that records an audit row also calls `dry_run`; no other module has the options."""
    assert {name for name in WRITING if "dry_run(" not in SOURCES[name]} == set()
    assert [name for name, text in SOURCES.items() if "--apply --reason" in text] == [OUTPUT]
    assert len(WRITING) >= 8
