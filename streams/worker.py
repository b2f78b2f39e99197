"""settings + configuration -> the worker process: engine, tables, agent, and the HTTP port that answers for this worker's members."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import aiokafka.helpers
import faust
from aiohttp import web
from aiokafka.errors import KafkaConnectionError

from schemas.contract import member_key
from streams import internal, kafka, observability, programs, publishing, topics
from streams.agents.keep_accounts import KeepAccounts, Tables
from streams.codec import open_codec
from streams.configuration import Configuration
from streams.engine import App, EngineConfig, Unit
from streams.errors import ConfigurationError, LoyaltyError, UnavailableError
from streams.internal_access import refusal
from streams.personal_data import owner
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, DELETIONS_KEPT_S, FORGET, TABLES, app_id, changelogs
from streams.ticker import Ticker

log = logging.getLogger(__name__)


def build(settings: Settings) -> tuple[App, Ticker]:
    """The Faust app with its tables and its agent, and what makes its time pass. Connects to nothing but a schema registry, if one is set."""
    codec = open_codec(settings)
    voucher_key = settings.voucher_key.encode()
    config = EngineConfig(
        app_id=app_id(settings),
        client=kafka.client_config(settings),
        credentials=_credentials(settings),
        partitions=settings.kafka_partitions,
        data_dir=settings.worker_data_dir or str(Path(settings.home) / "worker"),
        instance_id=settings.worker_instance_id or None,
        batch_records_max=settings.worker_batch_records_max,
        record_bytes_max=settings.worker_record_bytes_max,
        state_memory_mib=settings.worker_state_memory_mib,
        standby_copies=settings.worker_standby_copies,
        deletions_kept_s=DELETIONS_KEPT_S,
        compacted=[topics.PROFILES.name(settings.topic_prefix)],
        forget=FORGET,
        session_timeout_s=settings.worker_session_timeout_s,
        transaction_timeout_s=settings.transaction_timeout_s,
    )
    app = App(config, codec, lambda poison: keeper.dead_letter(poison))
    tables = {name: app.Table(name, key_type=bytes, value_type=record, partitions=settings.kafka_partitions) for name, record in TABLES.items()}
    keeper = KeepAccounts(
        Tables(**tables),
        codec=codec,
        parse_rules=lambda version: programs.from_record(version, voucher_key),
        prefix=settings.topic_prefix,
        partition_of=app.partition_of,
    )

    async def leave(_: Any, revoked: Any, **__: Any) -> None:
        for partition in {place.partition for place in revoked}:
            keeper.leave(partition)

    app.on_partitions_revoked.connect(leave)
    sources = {topic.name(settings.topic_prefix): topic.record for topic in topics.SOURCES}
    rules = topics.PROGRAMS.name(settings.topic_prefix)

    # A file of a million new members must not keep a guest at the till waiting. What comes for one of them meanwhile waits for the enrolment.
    enrolments = topics.ENROLMENTS.name(settings.topic_prefix)

    @app.agent(app.source(sources, first=(rules,), bulk=(enrolments,)), name="keep_accounts")
    async def keep_accounts(units: Any) -> None:
        """commands -> ledger -> accounts + events, entries, profiles, audit"""
        unit: Unit
        async for unit in units:
            await unit.process(keeper.handle)

    ticker = Ticker(
        kafka.producer(settings),
        settings,
        codec,
        owned=app.partitions.owned,
        handled=keeper.ticks.__getitem__,
        behind=keeper.behind.__contains__,
        rows_estimate=lambda partition: app.partitions.rows(partition).state.rows_estimate(),
    )
    return app, ticker


async def run(settings: Settings, configuration: Configuration, stop: asyncio.Event) -> None:
    """Run a worker until `stop` is set: then it finishes its open transactions and leaves.

    Waits for a broker that does not answer. Raises ConfigurationError for what only an operator can mend, and LoyaltyError when the
    engine stops by itself.
    """
    if len(settings.voucher_key) < 16:
        raise ConfigurationError("LOYALTY_VOUCHER_KEY is not set: a worker derives voucher codes from it. Give it 16 characters at least.")
    ready: list[App] = []
    server = await observability.serve(_web(settings, ready), settings.http_host, settings.http_port)
    try:
        while await kafka.wait_for_topics(settings, stop, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)}):
            try:
                await asyncio.to_thread(publishing.ensure_published, settings, configuration)
            except UnavailableError as error:
                log.warning("worker.not_started", extra={"error": str(error)})
                continue
            app, ticker = build(settings)
            ticking = None
            try:
                await app.start()
                ready.append(app)
                ticking = asyncio.create_task(ticker.run())
                log.info("worker.started", extra={"group": app_id(settings)})
                await _until_stopped(app, stop)
                return
            except KafkaConnectionError as error:  # The broker went away between two steps of the start: it is waited for again.
                log.warning("worker.not_started", extra={"error": str(error)})
            finally:
                ready.clear()
                if ticking is not None:
                    ticking.cancel()
                await app.stop()
                log.info("worker.stopped")
    finally:
        await server.cleanup()


async def _until_stopped(app: App, stop: asyncio.Event) -> None:
    """Return when `stop` is set. Raises LoyaltyError with the reason when the app stops by itself."""
    stopping = asyncio.create_task(stop.wait())
    crashed = asyncio.create_task(app.wait_until_stopped())
    try:
        await asyncio.wait([stopping, crashed], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set() and app.crash_reason is not None:
            raise LoyaltyError(f"the engine stopped: {app.crash_reason}") from app.crash_reason
    finally:
        stopping.cancel()
        crashed.cancel()


def _web(settings: Settings, running: list[App]) -> web.Application:
    def readiness() -> str:
        if not running:
            return "waits for Kafka, LOYALTY_KAFKA_BOOTSTRAP_SERVERS"
        app = running[0]
        if not app.tables.recovery.completed.is_set():
            return "is taking over its partitions"
        failed = app.partitions.failed()
        return f"partitions {failed} are being opened again" if failed else ""

    async def account(request: web.Request) -> web.Response:
        """One account as the table has it: 200, 404 not a member, 421 owned by another worker, 401 without the internal token."""
        if (refused := refusal(request, settings)) is not None:
            return refused
        key = member_key(request.match_info["program"], request.match_info["member"])
        if not running:
            return web.json_response({"error": "starting"}, status=503)
        app = running[0]
        try:
            row = app.tables["accounts"].committed(app.partition_of(key), key)
        except KeyError:
            return web.json_response({"error": "another worker owns this member's partition"}, status=421)
        if row is None:
            return web.json_response({"error": "not enrolled"}, status=404)
        return web.json_response(row.to_avro())

    app = web.Application()
    observability.add_routes(app, readiness)
    app.router.add_get("/internal/accounts/{program}/{member:[^/]+}", account)
    owner.add_route(app, settings, running)
    internal.add_routes(app, settings, running)
    return app


def _credentials(settings: Settings) -> Any:
    """Faust's form of the Kafka security settings; None for plain text."""
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return None
    context = None
    if protocol.endswith("SSL"):
        context = aiokafka.helpers.create_ssl_context(
            cafile=settings.kafka_ssl_ca_file or None,
            certfile=settings.kafka_ssl_certificate_file or None,
            keyfile=settings.kafka_ssl_key_file or None,
        )
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=settings.kafka_sasl_username,
        password=settings.kafka_sasl_password,
        ssl_context=context,
        mechanism=settings.kafka_sasl_mechanism,
    )
