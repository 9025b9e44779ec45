"""Store: the commands about the objects: sweep out what nobody needs, and link to one.

I/O: the object store and PostgreSQL.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.operator import Operator, audited_action, operator_command
from ops.cli.options import Apply, DataDir, Json, Reason
from ops.cli.output import dry_run
from ops.store.retention import Kind, Known, RetentionSettings, needless
from services.api.operators import retention as rows
from shared.contract import ids
from shared.storage import LINK_S_MAX

TELL_EVERY = 1000  # objects
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
store = typer.Typer(help="The object store: sweep, link.", no_args_is_help=True)


@dataclass(kw_only=True)
class Swept:
    """What was found needless, and whether it is gone."""

    looked_at: int = 0
    applied: bool = False
    objects: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    size_bytes: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))

    def add(self, kind: Kind, size_bytes: int) -> None:
        """Count one."""
        self.objects[kind] += 1
        self.size_bytes[kind] += size_bytes

    def as_json(self) -> dict[str, Any]:
        """For scripts and the audit."""
        kinds = {
            kind.value: {"objects": self.objects[kind], "size_bytes": self.size_bytes[kind]}
            for kind in Kind
        }
        return {"looked_at": self.looked_at, "applied": self.applied, "needless": kinds}


@store.command()
def sweep(
    *,
    apply: Apply = False,
    reason: Reason = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say which objects nobody needs any more; with --apply, delete them.

    How long something is kept is for the SEGUE_…_RETENTION_DAYS settings to say. Ctrl-C is
    harmless: what is deleted was needless, and the rest is found again.
    """
    with operator_command(
        apply=apply, reason=reason, data_dir=data_dir, as_json=as_json
    ) as command:
        retention = RetentionSettings.from_environment()
        command.run(
            lambda operator: swept_by(operator, retention), lines=lines, document=Swept.as_json
        )


@store.command()
def link(
    key: str,
    *,
    ttl: Annotated[int, typer.Option(min=1, max=LINK_S_MAX, help="Seconds it lives.")] = 3600,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print an address that reads one object, without an account, for a while."""

    async def body(operator: Operator) -> dict[str, Any]:
        try:
            found = await operator.store.stat(key)
            url = operator.store.presigned_url(key, ttl_s=ttl)
        except ValueError as error:
            raise CommandError(Exit.USAGE, str(error)) from error
        if found is None:
            raise CommandError(Exit.REFUSED, f"there is no object {key}")
        if url is None:
            place = operator.settings.store.folder
            raise CommandError(Exit.REFUSED, f"a folder has no server: the file is {place}/{key}")
        return {"url": url, "ttl_s": ttl}

    with operator_command(data_dir=data_dir, as_json=as_json) as command:
        command.run(body, lines=lambda result: [result["url"]])


def lines(swept: Swept) -> list[str]:
    """The outcome in words."""
    told = [
        f"{kind.value:<8} {swept.objects[kind]:>8} objects {_size(swept.size_bytes[kind]):>10}"
        for kind in Kind
    ]
    count = sum(swept.objects.values())
    end = dry_run(f"{count} objects would be deleted", "delete them")
    if swept.applied:
        end = f"{count} objects deleted"
    return [f"{swept.looked_at} objects scanned; eligible for deletion:", *told, end]


async def swept_by(operator: Operator, retention: RetentionSettings) -> Swept:
    """Sweep, or count what a sweep would delete."""
    if not operator.apply:
        return await _walk(operator, retention, Swept())
    arguments = retention.model_dump(mode="json")
    async with audited_action(operator, "store sweep", arguments=arguments) as row:
        swept = Swept(applied=True)
        try:
            return await _walk(operator, retention, swept)
        finally:
            await row.save_progress(swept.as_json())


async def _walk(operator: Operator, retention: RetentionSettings, swept: Swept) -> Swept:
    """Look at every object, and delete what is needless where `swept` says so."""
    known, now = await _known(operator), operator.clock.now()
    async for found in operator.store.list_objects(""):
        swept.looked_at += 1
        if swept.looked_at % TELL_EVERY == 0:
            operator.report(f"{swept.looked_at} objects, {sum(swept.objects.values())} needless")
        kind = needless(found, known, retention, now=now)
        if kind is None or not await _still(operator, kind, found.key):
            continue
        if swept.applied:
            await operator.store.delete(found.key)
        swept.add(kind, found.size_bytes)
    return swept


async def _known(operator: Operator) -> Known:
    """What the rows say, in one moment."""
    async with operator.database.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        unfinished = await rows.unfinished_runs(connection)
        return Known(
            jobs=frozenset(map(ids.job_uuid, await rows.job_ids(connection))),
            unfinished=frozenset((ids.job_uuid(job), number) for job, number in unfinished),
            named=await rows.referenced_uploads(connection),
        )


async def _still(operator: Operator, kind: Kind, key: str) -> bool:
    """Whether nobody has come to name a handed-in file since."""
    if kind is not Kind.UPLOAD:
        return True
    async with operator.database.connection() as connection:
        return not await rows.is_referenced(connection, key)


def _size(size_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if size_bytes < 1024:  # noqa: PLR2004 - of one unit in the next
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} {_UNITS[-1]}"
