"""Redis and ClickHouse over TLS, by settings alone: an authority of the operator's own is enough, and nothing less is."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
import redis.exceptions
import trustme

from infra.clickhouse_service import ClickHouseServer
from infra.service import Service
from infra.valkey_server import ValkeyServer
from sinks import clickhouse as clickhouse_sink
from sinks import redis_cache


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def tls_in_front_of(server: Service, authority: trustme.CA) -> AsyncIterator[int]:
    """A port that speaks TLS and hands every byte on to the server: the embedded ones are built without TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pipe(reader, there_writer), pipe(there_reader, writer))

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    yield listener.sockets[0].getsockname()[1]
    listener.close()


async def test_redis_over_tls(valkey: ValkeyServer, make_settings: Any, tmp_path: Path, authority: trustme.CA) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with tls_in_front_of(valkey, authority) as port:
        over_tls = {"redis_url": f"rediss://127.0.0.1:{port}/0", "kafka_bootstrap_servers": "unused", "clickhouse_url": "http://unused"}
        trusting = redis_cache.connect(make_settings(**over_tls, redis_ca_file=str(tmp_path / "ca.pem")))
        assert await trusting.ping()
        await trusting.aclose()
        stranger = redis_cache.connect(make_settings(**over_tls))
        with pytest.raises(redis.exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.ping()
        await stranger.aclose()


async def test_clickhouse_over_tls(clickhouse: ClickHouseServer, make_settings: Any, tmp_path: Path, authority: trustme.CA) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with tls_in_front_of(clickhouse, authority) as port:
        over_tls = {"clickhouse_url": f"https://127.0.0.1:{port}", "kafka_bootstrap_servers": "unused", "redis_url": "redis://unused"}
        trusting = make_settings(**over_tls, clickhouse_ca_file=str(tmp_path / "ca.pem"))
        client = await asyncio.to_thread(clickhouse_sink.connect, trusting, None)
        assert await asyncio.to_thread(client.command, "SELECT 1 + 1") == 2
        await asyncio.to_thread(client.close)
        with pytest.raises(clickhouse_connect.driver.exceptions.Error, match="CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
            await asyncio.to_thread(clickhouse_sink.connect, make_settings(**over_tls), None)
