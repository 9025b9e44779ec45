"""Tests of embedded/toolchain: tools are fetched once, and missing ones are reported."""

from pathlib import Path

import pytest

from embedded.servers.kafka import NativeKafka
from embedded.servers.object_store import NativeMinio, NativeStore, NativeVersitygw, native_store
from embedded.toolchain import cache
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError


def settings(**values: object) -> ToolSettings:
    """Return tool settings with these values."""
    return ToolSettings.from_environment(**values)


def test_a_cached_tool_is_not_built_twice(tmp_path: Path) -> None:
    """The second start uses the folder of the first."""
    folders: list[Path] = []

    def make(folder: Path) -> None:
        folders.append(folder)
        (folder / "tool").write_text("x")

    first = cache.fill(tmp_path / "cache" / "tool-1", make, deadline_s=5)
    second = cache.fill(tmp_path / "cache" / "tool-1", make, deadline_s=5)

    assert len(folders) == 1
    assert first == second
    assert (second / "tool").read_text() == "x"


def test_a_failed_build_leaves_no_folder(tmp_path: Path) -> None:
    """The next start would take a partial folder for a complete one."""

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        cache.fill(tmp_path / "tool-1", fail, deadline_s=5)

    assert [path.name for path in tmp_path.iterdir()] == ["tool-1.lock"]


def test_other_inputs_have_another_folder(tmp_path: Path) -> None:
    """A changed pin is fetched again; the boundaries of the inputs count too."""
    tools = settings(cache_home=tmp_path)

    folders = {
        cache.cached_path(tools, "t", *inputs) for inputs in ([b"ab"], [b"ac"], [b"a", b"b"])
    }

    assert len(folders) == 3


def test_a_missing_java_is_reported_with_what_to_do(tmp_path: Path) -> None:
    """JAVA_HOME wins over PATH, so an invalid one is an error."""
    reason = str(NativeKafka.available(settings(java_home=tmp_path)))

    assert "JAVA_HOME" in reason
    assert "unset it" in reason


def test_an_old_java_is_rejected(tmp_path: Path) -> None:
    """The broker would fail with an unreadable class version error."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o700)

    assert "not Java 17 or newer" in str(NativeKafka.available(settings(java_home=tmp_path)))


@pytest.mark.parametrize(
    ("store", "field", "variable"),
    [
        (NativeMinio, "minio_binary", "MINIO_BIN"),
        (NativeVersitygw, "versitygw_binary", "VERSITYGW_BIN"),
    ],
)
def test_a_missing_s3_server_is_reported(
    store: type[NativeStore], field: str, variable: str, tmp_path: Path
) -> None:
    """A named binary is checked before the start."""
    tools = settings(**{field: tmp_path / "server"})

    assert str(store.available(tools)) == f"{variable}: no program at {tmp_path / 'server'}"


def test_a_native_stack_keeps_the_store_of_its_data(tmp_path: Path) -> None:
    """The media of one server cannot be read by the other, so a change would lose them."""
    other = settings(native_store="versitygw")
    assert native_store(tmp_path, settings()).label == "MinIO"
    assert native_store(tmp_path, other).label == "versitygw"
    (tmp_path / "versitygw" / "data").mkdir(parents=True)

    assert native_store(tmp_path, settings()).label == "versitygw"
    assert native_store(tmp_path, other).label == "versitygw"
    with pytest.raises(ServerStartError, match=r"SEGUE_NATIVE_STORE is minio.*in versitygw.*unset"):
        native_store(tmp_path, settings(native_store="minio"))
