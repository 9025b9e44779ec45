"""The object store over a bad wire, and dying: no wrong bytes are handed on, nothing is lost."""

import asyncio
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from shared.errors import StoreUnavailableError
from shared.settings import StoreSettings
from shared.storage import CHUNK_BYTES
from shared.storage.keys import track_key
from shared.storage.s3.store import READ_S, S3Store
from tests.faults.harness.durations import SEED, long_or
from tests.faults.harness.flaky_wire import Fault, Wire, flaky
from tests.faults.harness.killable_servers import KillableMinio, short_folder
from tests.support.api_fixture import TWO_SCENES
from tests.support.pipeline_fixture import Pipeline, running_pipeline
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(long_or(long=1200, short=240))]
ROUNDS = long_or(long=200, short=10)
TRIES_MAX = 3 * 2  # requests of one call: three tries, and a download is begun twice
DEATHS = long_or(long=10, short=2)
JOBS = long_or(long=12, short=3)
DEADLINE_S = 60.0  # of any call here
SAID_WRONG = (Fault.ERROR_500, Fault.SLOW_DOWN_503)
LOST = (Fault.RESET, Fault.LOST_ANSWER, Fault.CUT_ANSWER, Fault.CUT_REQUEST)
T = TypeVar("T")
WEIGHTS = dict.fromkeys((*SAID_WRONG, *LOST, Fault.FLIPPED, Fault.SLOW), 0.05)


def through(wire: Wire, minio: StoreSettings) -> StoreSettings:
    """The same store, at the other end of the wire."""
    return minio.model_copy(update={"endpoint": f"http://127.0.0.1:{wire.port}"})


@asynccontextmanager
async def a_store(
    minio: StoreSettings,
    weights: Mapping[Fault, float],
    *,
    seed: int = SEED,
    read_timeout_s: float = READ_S,
) -> AsyncIterator[tuple[S3Store, Wire]]:
    """A client whose every request has a connection of its own, so that every one is drawn."""
    async with flaky(minio.endpoint.removeprefix("http://"), weights, seed=seed) as wire:
        wire.calm = True
        store = S3Store(through(wire, minio), read_timeout_s=read_timeout_s)
        await store.prepare()
        _drop_connections(store)
        wire.calm = False
        wire.happened.clear()
        try:
            yield store, wire
        finally:
            await store.close()


class Ledger:
    """What every call came to."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self.ends: Counter[str] = Counter()
        self.longest_s = 0.0

    async def call(self, name: str, doing: Awaitable[T]) -> T | None:
        """Await; None where the store could not. Anything but that error is a fault of ours."""
        _drop_connections(self._store)  # its requests draw anew
        begun = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_S):
                value = await doing
        except StoreUnavailableError:
            self.ends[f"{name} refused"] += 1
            return None
        else:
            self.ends[name] += 1
            return value
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - begun)


def _say(figures: str) -> None:
    sys.stdout.write(f"{figures}\n")


async def _put(store: S3Store, key: str, data: bytes) -> bool:
    await store.put(key, data)
    return True


async def _got(store: S3Store, key: str, target: Path) -> bool:
    await store.get_file(key, target)
    return True


async def _read_all(store: S3Store, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.stream(key)])


async def _listed(store: S3Store, prefix: str) -> list[str]:
    return [found.key async for found in store.list_objects(prefix)]


def _leftovers(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.part")


@pytest.mark.parametrize("fault", [*SAID_WRONG, *LOST, Fault.FLIPPED, Fault.SLOW], ids=str)
async def test_over_a_bad_wire_calls_succeed_or_say_so_and_never_hand_on_wrong_bytes(
    minio: StoreSettings, tmp_path: Path, fault: Fault
) -> None:
    """One kind of fault on four connections of ten; every call ends, in tries that are counted."""
    draws, wrong = random.Random(SEED), 0
    kept: dict[str, bytes] = {}
    async with a_store(minio, {fault: 0.4}) as (store, wire):
        ledger = Ledger(store)
        place = f"flaky/{secrets.token_hex(6)}"
        for number in range(ROUNDS):
            key = f"{place}/{number:04}"
            data = draws.randbytes(draws.choice((10, 5000, CHUNK_BYTES + 7)))
            if await ledger.call("put", _put(store, key, data)):
                kept[key] = data
            known = draws.choice(list(kept)) if kept else None
            if known is None:
                continue
            for came in (
                await ledger.call("get", store.get(known)),
                await ledger.call("stream", _read_all(store, known)),
            ):
                wrong += came is not None and came != kept[known]
            found = await ledger.call("stat", store.stat(known))
            wrong += found is not None and found.size_bytes != len(kept[known])
            listed = await ledger.call("list", _listed(store, f"{place}/"))
            wrong += listed is not None and not set(kept) <= set(listed)
            target = tmp_path / "file"
            if await ledger.call("get_file", _got(store, known, target)):
                wrong += target.read_bytes() != kept[known]
        requests, calls = sum(wire.happened.values()), sum(ledger.ends.values())
        wire.calm = True
        for key, data in kept.items():
            wrong += await store.get(key) != data
    _say(
        f"{fault}: seed {SEED}, {calls} calls, {requests} connections, {wire.happened[fault]} of"
        f" them hit; wrong bytes {wrong}, refused"
        f" {sum(n for name, n in ledger.ends.items() if 'refused' in name)}, longest call"
        f" {ledger.longest_s:.1f} s"
    )

    assert wire.happened[fault] > 0
    assert wrong == 0
    assert list(_leftovers(tmp_path)) == []
    assert requests <= calls * TRIES_MAX
    assert ledger.ends["put"] > 0
    assert ledger.ends["get"] > 0


def _drop_connections(store: S3Store) -> None:
    store._http.clear()


async def test_a_server_that_never_answers_is_given_up_in_time(
    minio: StoreSettings,
) -> None:
    """The stock client would wait for half an hour; ours says so within its deadline."""
    async with a_store(minio, {Fault.SILENT: 1.0}, read_timeout_s=0.5) as (store, wire):
        begun = time.monotonic()
        ends = await asyncio.gather(
            store.get("a/b"),
            store.put("a/b", b"x"),
            store.put_if_absent("a/c", b"x"),
            store.stat("a/b"),
            store.check(),
            return_exceptions=True,
        )
        took_s = time.monotonic() - begun
    _say(f"silent server: 5 of 5 calls given up within {took_s:.1f} s")

    assert [type(end) for end in ends] == [StoreUnavailableError] * 5
    assert took_s < DEADLINE_S
    assert wire.happened[Fault.SILENT] <= 5 * TRIES_MAX


async def test_of_many_creators_over_a_bad_wire_one_at_most_is_first(minio: StoreSettings) -> None:
    """Lost answers included: who asks again with its own bytes hears that it was first."""
    claims = rounds = 0
    async with a_store(minio, {Fault.LOST_ANSWER: 0.3, Fault.ERROR_500: 0.2}) as (store, wire):
        place = f"flaky/{secrets.token_hex(6)}"

        async def claimed(key: str, nonce: bytes) -> bool:
            while True:
                try:
                    return await store.put_if_absent(key, nonce)
                except StoreUnavailableError:
                    await asyncio.sleep(0.01)

        for number in range(ROUNDS):
            key = f"{place}/{number}"
            nonces = [secrets.token_bytes(8) for _ in range(4)]
            async with asyncio.timeout(DEADLINE_S):
                told = await asyncio.gather(*(claimed(key, nonce) for nonce in nonces))
            assert told.count(True) == 1
            rounds += 1
            wire.calm, was = True, wire.calm
            claims += await store.get(key) == nonces[told.index(True)]
            wire.calm = was
    _say(
        f"create if absent, 4 at once: {rounds} rounds, one first in each, its bytes there"
        f" {claims}; {wire.happened[Fault.LOST_ANSWER]} answers lost"
    )

    assert claims == rounds == ROUNDS
    assert wire.happened[Fault.LOST_ANSWER] > 0


@asynccontextmanager
async def _wired_pipeline(
    kafka: KafkaServer, postgres: Database, prefix: str, folder: Path, store: StoreSettings
) -> AsyncIterator[Pipeline]:
    async with running_pipeline(
        kafka,
        postgres,
        prefix,
        folder,
        SEGUE_STORE_DIR="",
        MINIO_ENDPOINT=store.endpoint,
        MINIO_ACCESS_KEY=store.access_key.get_secret_value(),
        MINIO_SECRET_KEY=store.secret_key.get_secret_value(),
        MINIO_BUCKET=store.bucket,
        TMPDIR=str(folder),
    ) as pipeline:
        yield pipeline


async def _asked(pipeline: Pipeline, names: list[str]) -> None:
    """Ask for these jobs, as patiently as the answers demand."""
    for name in names:

        async def accepted(name: str = name) -> bool | None:
            try:
                answer = await pipeline.generate(job_id=name, scenes=TWO_SCENES)
            except httpx.TransportError:
                return None
            assert answer.status_code in {202, 503}, answer.text
            return answer.status_code == 202 or None

        await eventually(accepted, within_s=60, what=f"{name} is accepted")


async def _tracks(pipeline: Pipeline, names: list[str]) -> dict[str, bytes]:
    """The track of each job, once it has one."""
    found = {}
    for name in names:
        told = await pipeline.ended(name, within_s=180)
        assert told["audio_status"]["status"] == "completed", told

        async def track(path: str = told["links"]["download"]) -> bytes | None:
            try:
                answer = await pipeline.client.get(path)
            except httpx.TransportError:
                return None
            return answer.content if answer.status_code == 200 else None

        found[name] = await eventually(track, within_s=60, what=f"the track of {name}")
    return found


async def test_a_line_over_a_bad_wire_makes_the_same_tracks(
    kafka: KafkaServer,
    postgres: Database,
    topic_prefix: str,
    minio: StoreSettings,
    tmp_path: Path,
) -> None:
    """Two connections of five suffer; the same jobs on a calm wire are the measure."""
    tracks, weathers = {}, {"calm": {}, "bad": WEIGHTS}
    befell: Counter[Fault] = Counter()
    for weather, weights in weathers.items():
        folder = tmp_path / weather
        folder.mkdir()
        bucket = minio.model_copy(update={"bucket": f"flaky-{secrets.token_hex(6)}"})
        async with (
            flaky(minio.endpoint.removeprefix("http://"), weights, seed=SEED) as wire,
            _wired_pipeline(
                kafka, postgres, f"{topic_prefix}{weather}.", folder, through(wire, bucket)
            ) as pipeline,
        ):
            names = [f"job-{number}" for number in range(JOBS)]
            await _asked(pipeline, names)
            tracks[weather] = await _tracks(pipeline, names)
        assert list(_leftovers(folder)) == []
        befell += wire.happened
    _say(f"line over a bad wire: {JOBS} of {JOBS} jobs, seed {SEED}, befell {dict(befell)}")

    assert tracks["bad"] == tracks["calm"]
    assert sum(count for fault, count in befell.items() if fault is not Fault.NONE) > 0


async def test_a_store_that_is_killed_and_comes_back_loses_nothing(
    kafka: KafkaServer,
    postgres: Database,
    topic_prefix: str,
    minio: StoreSettings,
    tmp_path: Path,
) -> None:
    """SIGKILL in the middle of the work, and again; jobs wait, and are done afterwards."""
    assert minio.folder is None, "one is built where it can be"
    with short_folder() as folder:
        server = await asyncio.to_thread(KillableMinio, folder)
        try:
            async with _wired_pipeline(
                kafka, postgres, topic_prefix, tmp_path, server.settings
            ) as pipeline:
                names = [f"{death}-{n}" for death in range(DEATHS) for n in range(JOBS)]
                for death in range(DEATHS):
                    asking = asyncio.create_task(_asked(pipeline, names[death * JOBS :][:JOBS]))
                    await asyncio.sleep(0.5)
                    await server.kill()
                    await asyncio.sleep(2)
                    await server.start()
                    await asking
                tracks = await _tracks(pipeline, names)
            store = S3Store(server.settings)
            stored = {name: await store.get(track_key(name, 1)) for name in names}
            await store.close()
        finally:
            await asyncio.to_thread(server.stop)
    _say(f"object store killed {DEATHS} times: {len(tracks)} of {len(names)} jobs done, lost 0")

    assert tracks == stored
