"""The object store with network faults and kills: no wrong bytes, nothing lost."""

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
from tests.faults.harness.killable_servers import KillableS3, short_folder
from tests.support.api_fixture import TWO_SCENES
from tests.support.pipeline_fixture import Pipeline, running_pipeline
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(long_or(long=1200, short=240))]
ROUNDS = long_or(long=200, short=10)
TRIES_MAX = 3 * 2  # requests of one call: three attempts, and a download starts twice
DEATHS = long_or(long=10, short=2)
JOBS = long_or(long=12, short=3)
DEADLINE_S = 60.0  # of any call in these tests
ERRORS = (Fault.ERROR_500, Fault.SLOW_DOWN_503)
LOST = (Fault.RESET, Fault.LOST_ANSWER, Fault.CUT_ANSWER, Fault.CUT_REQUEST)
T = TypeVar("T")
WEIGHTS = dict.fromkeys((*ERRORS, *LOST, Fault.FLIPPED, Fault.SLOW), 0.05)


def through(wire: Wire, minio: StoreSettings) -> StoreSettings:
    """Return the settings of the store behind the proxy."""
    return minio.model_copy(update={"endpoint": f"http://127.0.0.1:{wire.port}"})


@asynccontextmanager
async def a_store(
    minio: StoreSettings,
    weights: Mapping[Fault, float],
    *,
    seed: int = SEED,
    read_timeout_s: float = READ_S,
) -> AsyncIterator[tuple[S3Store, Wire]]:
    """Open a store whose every call uses a new connection, so that a fault is drawn for it."""
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


class CallLog:
    """Runs calls and counts their results."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self.ends: Counter[str] = Counter()
        self.longest_s = 0.0

    async def call(self, name: str, awaitable: Awaitable[T]) -> T | None:
        """Await a call; return None if the store is unavailable. Other errors fail the test."""
        _drop_connections(self._store)  # a new connection draws a fault
        start_s = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_S):
                value = await awaitable
        except StoreUnavailableError:
            self.ends[f"{name} unavailable"] += 1
            return None
        else:
            self.ends[name] += 1
            return value
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - start_s)


def _write(figures: str) -> None:
    sys.stdout.write(f"{figures}\n")


async def _put(store: S3Store, key: str, data: bytes) -> bool:
    await store.put(key, data)
    return True


async def _download(store: S3Store, key: str, target: Path) -> bool:
    await store.get_file(key, target)
    return True


async def _read_all(store: S3Store, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.stream(key)])


async def _listed(store: S3Store, prefix: str) -> list[str]:
    return [stat.key async for stat in store.list_objects(prefix)]


def _leftovers(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.part")


@pytest.mark.parametrize("fault", [*ERRORS, *LOST, Fault.FLIPPED, Fault.SLOW], ids=str)
async def test_calls_over_a_faulty_network_succeed_or_fail_without_wrong_bytes(
    minio: StoreSettings, tmp_path: Path, fault: Fault
) -> None:
    """One kind of fault on 40 % of the connections; every call ends, with bounded attempts."""
    draws, wrong = random.Random(SEED), 0
    stored: dict[str, bytes] = {}
    async with a_store(minio, {fault: 0.4}) as (store, wire):
        calls_made = CallLog(store)
        prefix = f"flaky/{secrets.token_hex(6)}"
        for number in range(ROUNDS):
            key = f"{prefix}/{number:04}"
            data = draws.randbytes(draws.choice((10, 5000, CHUNK_BYTES + 7)))
            if await calls_made.call("put", _put(store, key, data)):
                stored[key] = data
            known = draws.choice(list(stored)) if stored else None
            if known is None:
                continue
            for received in (
                await calls_made.call("get", store.get(known)),
                await calls_made.call("stream", _read_all(store, known)),
            ):
                wrong += received is not None and received != stored[known]
            stat = await calls_made.call("stat", store.stat(known))
            wrong += stat is not None and stat.size_bytes != len(stored[known])
            listed = await calls_made.call("list", _listed(store, f"{prefix}/"))
            wrong += listed is not None and not set(stored) <= set(listed)
            target = tmp_path / "file"
            if await calls_made.call("get_file", _download(store, known, target)):
                wrong += target.read_bytes() != stored[known]
        requests, calls = sum(wire.happened.values()), sum(calls_made.ends.values())
        wire.calm = True
        for key, data in stored.items():
            wrong += await store.get(key) != data
    _write(
        f"{fault}: seed {SEED}, {calls} calls, {requests} connections, {wire.happened[fault]} of"
        f" them hit; wrong bytes {wrong}, unavailable"
        f" {sum(n for name, n in calls_made.ends.items() if 'unavailable' in name)}, longest call"
        f" {calls_made.longest_s:.1f} s"
    )

    assert wire.happened[fault] > 0
    assert wrong == 0
    assert list(_leftovers(tmp_path)) == []
    assert requests <= calls * TRIES_MAX
    assert calls_made.ends["put"] > 0
    assert calls_made.ends["get"] > 0


def _drop_connections(store: S3Store) -> None:
    store._http.clear()


async def test_calls_to_a_server_that_never_answers_time_out(
    minio: StoreSettings,
) -> None:
    """Within the deadline; the vendor's default is half an hour."""
    async with a_store(minio, {Fault.SILENT: 1.0}, read_timeout_s=0.5) as (store, wire):
        start_s = time.monotonic()
        ends = await asyncio.gather(
            store.get("a/b"),
            store.put("a/b", b"x"),
            store.put_if_absent("a/c", b"x"),
            store.stat("a/b"),
            store.check(),
            return_exceptions=True,
        )
        took_s = time.monotonic() - start_s
    _write(f"silent server: 5 of 5 calls timed out within {took_s:.1f} s")

    assert [type(end) for end in ends] == [StoreUnavailableError] * 5
    assert took_s < DEADLINE_S
    assert wire.happened[Fault.SILENT] <= 5 * TRIES_MAX


async def test_one_of_many_concurrent_creators_is_first_despite_lost_responses(
    minio: StoreSettings,
) -> None:
    """A retry with the same bytes returns True if its first request was the one."""
    claims = rounds = 0
    async with a_store(minio, {Fault.LOST_ANSWER: 0.3, Fault.ERROR_500: 0.2}) as (store, wire):
        prefix = f"flaky/{secrets.token_hex(6)}"

        async def claimed(key: str, nonce: bytes) -> bool:
            while True:
                try:
                    return await store.put_if_absent(key, nonce)
                except StoreUnavailableError:
                    await asyncio.sleep(0.01)

        for number in range(ROUNDS):
            key = f"{prefix}/{number}"
            nonces = [secrets.token_bytes(8) for _ in range(4)]
            async with asyncio.timeout(DEADLINE_S):
                results = await asyncio.gather(*(claimed(key, nonce) for nonce in nonces))
            assert results.count(True) == 1
            rounds += 1
            wire.calm, was_calm = True, wire.calm
            claims += await store.get(key) == nonces[results.index(True)]
            wire.calm = was_calm
    _write(
        f"create if absent, 4 at once: {rounds} rounds, one first in each, its bytes there"
        f" {claims}; {wire.happened[Fault.LOST_ANSWER]} responses lost"
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


async def _request(pipeline: Pipeline, names: list[str]) -> None:
    """Request these jobs; retry until each is accepted."""
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
    """Wait for the track of each job; return the tracks."""
    tracks = {}
    for name in names:
        status = await pipeline.ended(name, within_s=180)
        assert status["audio_status"]["status"] == "completed", status

        async def track(path: str = status["links"]["download"]) -> bytes | None:
            try:
                answer = await pipeline.client.get(path)
            except httpx.TransportError:
                return None
            return answer.content if answer.status_code == 200 else None

        tracks[name] = await eventually(track, within_s=60, what=f"the track of {name}")
    return tracks


async def test_a_pipeline_with_network_faults_yields_the_same_tracks(
    kafka: KafkaServer,
    postgres: Database,
    topic_prefix: str,
    minio: StoreSettings,
    tmp_path: Path,
) -> None:
    """Faults on 40 % of the connections; compared with the same jobs without faults."""
    tracks, networks = {}, {"reliable": {}, "faulty": WEIGHTS}
    faults: Counter[Fault] = Counter()
    for network, weights in networks.items():
        folder = tmp_path / network
        folder.mkdir()
        bucket = minio.model_copy(update={"bucket": f"flaky-{secrets.token_hex(6)}"})
        async with (
            flaky(minio.endpoint.removeprefix("http://"), weights, seed=SEED) as wire,
            _wired_pipeline(
                kafka, postgres, f"{topic_prefix}{network}.", folder, through(wire, bucket)
            ) as pipeline,
        ):
            names = [f"job-{number}" for number in range(JOBS)]
            await _request(pipeline, names)
            tracks[network] = await _tracks(pipeline, names)
        assert list(_leftovers(folder)) == []
        faults += wire.happened
    _write(f"pipeline with network faults: {JOBS} of {JOBS} jobs, seed {SEED}, {dict(faults)}")

    assert tracks["faulty"] == tracks["reliable"]
    assert sum(count for fault, count in faults.items() if fault is not Fault.NONE) > 0


async def test_jobs_complete_across_kills_of_the_object_store(
    kafka: KafkaServer,
    postgres: Database,
    topic_prefix: str,
    minio: StoreSettings,
    tmp_path: Path,
) -> None:
    """SIGKILL during the jobs, several times; the jobs wait and complete."""
    assert minio.folder is None, "the server is real"
    with short_folder() as folder:
        server = await asyncio.to_thread(KillableS3, folder)
        try:
            async with _wired_pipeline(
                kafka, postgres, topic_prefix, tmp_path, server.settings
            ) as pipeline:
                names = [f"{death}-{n}" for death in range(DEATHS) for n in range(JOBS)]
                for death in range(DEATHS):
                    requesting = asyncio.create_task(
                        _request(pipeline, names[death * JOBS :][:JOBS])
                    )
                    await asyncio.sleep(0.5)
                    await server.kill()
                    await asyncio.sleep(2)
                    await server.start()
                    await requesting
                tracks = await _tracks(pipeline, names)
            store = S3Store(server.settings)
            stored = {name: await store.get(track_key(name, 1)) for name in names}
            await store.close()
        finally:
            await asyncio.to_thread(server.stop)
    _write(f"object store killed {DEATHS} times: {len(tracks)} of {len(names)} jobs done, lost 0")

    assert tracks == stored
