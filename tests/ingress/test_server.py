"""The process: what it binds, what stops it at its start, how it ends."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from infra import ports
from infra.fakes.apaleo import ApaleoFake
from schemas.records import Transaction
from streams import kafka as clients
from streams import topics
from streams.errors import ConfigurationError
from streams.ingress import server
from tests.ingress.support import CODEC, NOBODY, PMS_PASSWORD, TOKENS, make_configuration, read_all

pytestmark = pytest.mark.stack


async def ready(session: aiohttp.ClientSession, url: str, **options: Any) -> None:
    """Wait until the service can take commands."""
    async with asyncio.timeout(40):
        while True:
            try:
                async with session.get(f"{url}/readyz", **options) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def test_it_serves_follows_hints_and_ends_when_told(kafka: Any, valkey: Any, make_settings: Any) -> None:
    settings = make_settings(clickhouse_url=NOBODY, ingress_port=ports.choose())
    url = f"127.0.0.1:{settings.ingress_port}"
    pms = ApaleoFake()
    await pms.start()
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(settings, make_configuration(pms.base_url), stop))
    async with aiohttp.ClientSession() as session:
        await ready(session, f"http://{url}")
        pms.add_reservation("R-1", member_id="M-1")
        await pms.subscribe(f"http://pms:{PMS_PASSWORD}@{url}/v1/webhooks/apaleo")
        await pms.check_out("R-1")
        while not (found := await asyncio.to_thread(read_all, settings, topics.TRANSACTIONS)):
            await asyncio.sleep(0.1)
        assert CODEC.decode(found[0].value(), Transaction).transaction_id == "apaleo:R-1:stay"
        headers = {"Authorization": f"Bearer {TOKENS['all']}", "Prefer": "wait=1"}
        payload = {"program_id": "grand", "member_id": "M-1", "transaction_id": "t", "kind": "EARN", "points": 1}
        under_way = asyncio.create_task(session.post(f"http://{url}/v1/transactions", json=payload, headers=headers))
        await asyncio.sleep(0.3)
        stop.set()
        async with await under_way as response:
            assert response.status == 202, "a request under way was cut off"
        async with asyncio.timeout(20):
            await running
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"http://{url}/healthz")
    await pms.stop()


async def test_https(kafka: Any, valkey: Any, make_settings: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(str(key))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(certificate), append=True)
    port = ports.choose()
    files = {"ingress_tls_certificate_file": str(certificate), "ingress_tls_key_file": str(key)}
    settings = make_settings(clickhouse_url=NOBODY, ingress_port=port, **files)
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(settings, make_configuration(), stop))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with aiohttp.ClientSession() as session:
        await ready(session, f"https://127.0.0.1:{port}", ssl=trusting)
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{port}/healthz")
    stop.set()
    await running


async def test_a_port_in_use_names_its_setting(make_settings: Any) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    settings = make_settings(clickhouse_url=NOBODY, ingress_port=taken.sockets[0].getsockname()[1])
    with pytest.raises(ConfigurationError, match="LOYALTY_INGRESS_PORT"):
        await server.run(settings, make_configuration(), asyncio.Event())
    taken.close()


async def test_certificates_that_cannot_be_read_name_their_settings(make_settings: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    files = {"ingress_tls_certificate_file": str(tmp_path / "a.pem"), "ingress_tls_key_file": str(tmp_path / "b.pem")}
    settings = make_settings(clickhouse_url=NOBODY, **files)
    with pytest.raises(ConfigurationError, match="LOYALTY_INGRESS_TLS_CERTIFICATE_FILE"):
        await server.run(settings, make_configuration(), asyncio.Event())


async def test_topics_of_another_partition_count_end_the_process(kafka: Any, valkey: Any, make_settings: Any) -> None:
    settings = make_settings(clickhouse_url=NOBODY, ingress_port=ports.choose())
    other = replace(settings, kafka_partitions=settings.kafka_partitions + 1)
    await asyncio.to_thread(clients.ensure_topics, other, [topics.TRANSACTIONS])
    with pytest.raises(ConfigurationError, match="LOYALTY_KAFKA_PARTITIONS"):
        async with asyncio.timeout(40):
            await server.run(settings, make_configuration(), asyncio.Event())


async def test_it_ends_when_told_while_kafka_is_away() -> None:
    from streams.settings import Settings

    settings = Settings(ingress_port=ports.choose(), kafka_bootstrap_servers=f"127.0.0.1:{ports.choose()}")
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(settings, make_configuration(), stop))
    await asyncio.sleep(0.5)
    stop.set()
    async with asyncio.timeout(20):
        await running
