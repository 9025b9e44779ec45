"""Wires the generator's parts together and runs them until it is stopped."""

import asyncio
from functools import partial

from services.generator.faust_app.stream import SceneStream
from services.generator.provider_factory import build_provider
from services.generator.providers import MusicProvider
from services.generator.providers.by_name import Providers
from services.generator.providers.health import ProviderHealth
from services.generator.scene import film_check, style_sample
from services.generator.scene.handler import build_scene_handler
from services.generator.settings import GeneratorSettings
from shared.clock import Clock, SystemClock
from shared.contract.events import Stage
from shared.errors import SettingsError
from shared.http.account_check import check_account
from shared.http.health import Health
from shared.http.probes import Probe
from shared.kafka.probes import connect_publisher, progress_probe, server_probes
from shared.kafka.producer import Publisher
from shared.kafka.router import build_router
from shared.scratch import Scratch
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.storage.instrumented import InstrumentedStore
from shared.telemetry import trace
from shared.telemetry.log import Logger, logger_of


async def run(
    settings: GeneratorSettings,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
    clock: Clock | None = None,
    provider: MusicProvider | None = None,
) -> None:
    """Run the generator until `stop`; `provider` replaces the one that the settings name.

    Raises:
        SegueError: the generator could not start, or failed.
    """
    clock = clock or SystemClock()
    trace.set_service("generator", topic_prefix=settings.kafka.topic_prefix)
    log = logger_of("generator")
    log.info("starting", action="service.starting")
    store = InstrumentedStore(open_store(settings.store), log=log)
    providers = _providers(settings, store, provider, clock=clock, log=log)
    provider_health = ProviderHealth(providers.own)
    publisher = Publisher(settings.kafka, source="generator", clock=clock)
    stream, progress = _stream(settings, store, providers, publisher, clock=clock, log=log)
    provider_probe = Probe(name="provider", call=provider_health.check, clock=clock)
    health = Health(
        service="generator",
        start_s=settings.health.start_s,
        stop=stop,
        ready=ready or asyncio.Event(),
        clock=clock,
        log=log,
        probes=[*server_probes(settings.kafka, store, clock=clock), provider_probe, progress],
        figures=stream.figures,
    )
    _sweep(settings, log)
    checking = asyncio.create_task(_check_account(settings, log=log))
    async with health.serve(settings.health):
        try:
            await health.wait_for("the store", store.prepare)
            if await health.wait_for("Kafka", lambda: connect_publisher(publisher, settings.kafka)):
                await stream.serve(stop, ready=health.ready)
        finally:
            # 1. drain the lanes, commit, leave the group; 2. flush; 3. close the rest
            log.info("stopping", action="service.stopping")
            checking.cancel()
            await stream.stop()
            await publisher.stop()
            await provider_health.close()
            await providers.close()
            await store.close()
            log.info("stopped", action="service.stopped")


def _sweep(settings: GeneratorSettings, log: Logger) -> None:
    """Remove the scratch folders of a process that was killed."""
    for name in (style_sample.SCRATCH_NAME, film_check.SCRATCH_NAME):
        Scratch(settings.scratch, name=name).sweep(log=log)


def _providers(
    settings: GeneratorSettings,
    store: ObjectStore,
    provider: MusicProvider | None,
    *,
    clock: Clock,
    log: Logger,
) -> Providers:
    """Return the providers, whose own is `provider` or the one that the settings name."""
    choice = settings.choice
    log.info(
        "provider chosen", action="provider.chosen", provider=choice.name, reason=choice.reason
    )
    build = partial(build_provider, settings, store=store, clock=clock, log=log)
    return Providers(
        provider or build(),
        own_name=settings.provider,
        build=lambda name: build(name=name),
        log=log,
    )


async def _check_account(settings: GeneratorSettings, *, log: Logger) -> None:
    """Log a missing or rejected key at once; the service still serves runs of other providers."""
    try:
        note = await check_account(settings.choice, settings.replicate)
    except SettingsError as error:
        note = str(error)
    if note is not None:
        log.warning("provider not usable", action="provider.paused", reason=note)


def _stream(
    settings: GeneratorSettings,
    store: ObjectStore,
    providers: Providers,
    publisher: Publisher,
    *,
    clock: Clock,
    log: Logger,
) -> tuple[SceneStream, Probe]:
    """Return the stream with the scene handler attached, and the probe of its progress."""
    stream = SceneStream(settings, clock=clock, log=log)
    handler = build_scene_handler(
        settings,
        store=store,
        providers=providers,
        publisher=publisher,
        continuations=stream.continuations,
        wait_until_owned=stream.lanes.wait_until_owned,
        clock=clock,
        log=log,
    )
    router = build_router(
        service="generator",
        stage=Stage.GENERATION,
        publisher=publisher,
        store=store,
        settings=settings.lanes,
        clock=clock,
        log=log,
    )
    stream.attach(handler, router, slots=handler.generator.attempts.slots)
    return stream, progress_probe(router, stream.commit_due_s, clock=clock)
