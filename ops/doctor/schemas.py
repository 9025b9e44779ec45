"""The `segue schemas` command: writes the generated files of a source checkout."""

import importlib

from ops.cli.exit_codes import CommandError, Exit, report_errors


def schemas() -> None:
    """Write the generated files (JSON schemas, AsyncAPI, docs, dashboard) of a source checkout."""
    with report_errors(as_json=False):
        try:
            generator = importlib.import_module("tools.contract.schemas")
        except ModuleNotFoundError as error:  # images and wheels have no `tools`
            if (error.name or "").partition(".")[0] != "tools":
                raise
            raise CommandError(
                Exit.REFUSED,
                "segue schemas: works in a source checkout only; clone the repository and run "
                "it there",
            ) from error
        generator.main()
