"""Tools: native servers are had once per user, and what is missing is named with the way out."""

from pathlib import Path

import pytest

from embedded.servers.kafka import NativeKafka
from embedded.servers.minio import NativeMinio
from embedded.toolchain import cache
from embedded.toolchain.cache import ToolSettings


def settings(**given: object) -> ToolSettings:
    """Tools of a user whose environment says nothing else."""
    return ToolSettings.from_environment(**given)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    """The second start finds the first one's work."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "tool").write_text("x")

    first = cache.fill(tmp_path / "cache" / "tool-1", make, deadline_s=5)
    second = cache.fill(tmp_path / "cache" / "tool-1", make, deadline_s=5)

    assert len(made) == 1
    assert first == second
    assert (second / "tool").read_text() == "x"


def test_a_build_that_failed_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    """A half of it must not be found by the next start."""

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        cache.fill(tmp_path / "tool-1", fail, deadline_s=5)

    assert [path.name for path in tmp_path.iterdir()] == ["tool-1.lock"]


def test_other_ingredients_are_another_tool(tmp_path: Path) -> None:
    """A changed pin is fetched anew; where one ingredient ends matters too."""
    mine = settings(cache_home=tmp_path)

    places = {cache.cached_path(mine, "t", *one) for one in ([b"ab"], [b"ac"], [b"a", b"b"])}

    assert len(places) == 3


def test_a_java_that_is_not_there_is_named_with_the_way_out(tmp_path: Path) -> None:
    """JAVA_HOME wins over PATH, so a wrong one is no silent detour."""
    refusal = str(NativeKafka.available(settings(java_home=tmp_path)))

    assert "JAVA_HOME" in refusal
    assert "leave it out" in refusal


def test_a_java_that_is_too_old_is_refused(tmp_path: Path) -> None:
    """Before the broker fails with a class version nobody can read."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o700)

    assert "not Java 17 or newer" in str(NativeKafka.available(settings(java_home=tmp_path)))


def test_a_minio_that_is_not_there_is_named(tmp_path: Path) -> None:
    """MINIO_BIN is believed, and then checked."""
    given = settings(minio_binary=tmp_path / "minio")

    assert str(NativeMinio.available(given)) == f"MINIO_BIN: no program at {tmp_path / 'minio'}"
