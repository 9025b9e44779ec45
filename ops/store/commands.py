"""The commands `segue store sweep` and `segue store link`.

I/O: the object store and PostgreSQL.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.layout import count_of
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.cli.output import dry_run
from ops.store.retention import ObjectKind, References, RetentionSettings, eligible_kind
from services.api.operators import retention as rows
from services.api.operators import uploads
from shared.contract import ids
from shared.storage import LINK_S_MAX

REPORT_EVERY = 1000  # objects
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
store = typer.Typer(help="Delete old objects, and link to one: sweep, link.", no_args_is_help=True)


@dataclass(kw_only=True)
class SweepResult:
    """The objects that are eligible for deletion, by kind."""

    scanned: int = 0
    applied: bool = False  #: True: they were deleted
    objects: dict[ObjectKind, int] = field(default_factory=lambda: dict.fromkeys(ObjectKind, 0))
    size_bytes: dict[ObjectKind, int] = field(default_factory=lambda: dict.fromkeys(ObjectKind, 0))

    def add(self, kind: ObjectKind, size_bytes: int) -> None:
        """Count one eligible object."""
        self.objects[kind] += 1
        self.size_bytes[kind] += size_bytes

    def as_json(self) -> dict[str, Any]:
        """Return the result for `--json` and the audit."""
        kinds = {
            kind.value: {"objects": self.objects[kind], "size_bytes": self.size_bytes[kind]}
            for kind in ObjectKind
        }
        return {"scanned": self.scanned, "applied": self.applied, "eligible": kinds}


@store.command()
def sweep(
    *,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Count the objects that are eligible for deletion; with --apply, delete them.

    The SEGUE_…_RETENTION_DAYS settings are the retention. Ctrl-C is safe: a later sweep continues.
    """
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json
    ) as command:
        retention = RetentionSettings.from_environment()
        command.run(
            lambda operator: sweep_store(operator, retention),
            lines=sweep_lines,
            document=SweepResult.as_json,
        )


@store.command()
def link(
    key: str,
    *,
    ttl: Annotated[int, typer.Option(min=1, max=LINK_S_MAX, help="Lifetime in seconds.")] = 3600,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print a presigned URL, which reads an object without an account."""

    async def body(operator: Operator) -> dict[str, Any]:
        try:
            stat = await operator.store.stat(key)
            url = operator.store.presigned_url(key, ttl_s=ttl)
        except ValueError as error:
            raise CommandError(Exit.USAGE, str(error)) from error
        if stat is None:
            raise CommandError(Exit.REFUSED, f"object {key} not found")
        if url is None:
            folder = operator.settings.store.folder
            raise CommandError(
                Exit.REFUSED, f"a folder store has no URLs; the file is {folder}/{key}"
            )
        return {"url": url, "ttl_s": ttl}

    with operator_command(data_dir=data_dir, as_json=as_json) as command:
        command.run(body, lines=lambda result: [result["url"]])


def sweep_lines(result: SweepResult) -> list[str]:
    """Return the result as lines for a terminal."""
    longest = max(len(kind.value) for kind in ObjectKind)
    kinds = [
        f"{kind.value:<{longest}} {result.objects[kind]:>8} "
        f"{'object ' if result.objects[kind] == 1 else 'objects'} "
        f"{_size(result.size_bytes[kind]):>10}"
        for kind in ObjectKind
    ]
    count = sum(result.objects.values())
    objects = count_of(count, "object")
    summary = (
        f"{objects} deleted"
        if result.applied
        else dry_run(f"{objects} would be deleted", "delete them")
    )
    scanned = count_of(result.scanned, "object")
    return [f"{scanned} scanned; eligible for deletion:", *kinds, summary]


async def sweep_store(operator: Operator, retention: RetentionSettings) -> SweepResult:
    """Delete the eligible objects, or count them in a dry run."""
    if not operator.apply:
        return await _scan(operator, retention, SweepResult())
    arguments = retention.model_dump(mode="json")
    async with audited_action(operator, "store sweep", arguments=arguments) as row:
        result = SweepResult(applied=True)
        try:
            return await _scan(operator, retention, result)
        finally:
            await row.save_progress(result.as_json())


async def _scan(
    operator: Operator, retention: RetentionSettings, result: SweepResult
) -> SweepResult:
    """Scan every object; delete the eligible ones if `result.applied`."""
    references, now = await _read_references(operator), operator.clock.now()
    async for stat in operator.store.list_objects(""):
        result.scanned += 1
        if result.scanned % REPORT_EVERY == 0:
            eligible = sum(result.objects.values())
            operator.report(f"{result.scanned} objects scanned, {eligible} eligible")
        kind = eligible_kind(stat, references, retention, now=now)
        if kind is not None and await _delete(operator, kind, stat.key, apply=result.applied):
            result.add(kind, stat.size_bytes)
    return result


async def _read_references(operator: Operator) -> References:
    """Read the references in one snapshot."""
    async with operator.database.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        unfinished = await rows.unfinished_runs(connection)
        return References(
            jobs=frozenset(map(ids.job_uuid, await rows.job_ids(connection))),
            unfinished=frozenset((ids.job_uuid(job), number) for job, number in unfinished),
            uploads=await rows.referenced_uploads(connection),
        )


async def _delete(operator: Operator, kind: ObjectKind, key: str, *, apply: bool) -> bool:
    """Delete an object if `apply`; return False for an upload that a job references by now."""
    if kind is not ObjectKind.UPLOAD:
        if apply:
            await operator.store.delete(key)
        return True
    async with operator.database.transaction() as connection:
        if not await uploads.lock_unreferenced(connection, key):
            return False
        if apply:
            await operator.store.delete(key)
            await uploads.forget(connection, key)
    return True


def _size(size_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if size_bytes < 1024:  # noqa: PLR2004 - bytes per KiB and so on
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} {_UNITS[-1]}"
