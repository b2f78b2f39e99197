"""What the ingress takes, beside a bare loop. `python -m tests.bench.ingress`

One process of the ingress and one of a bare aiohttp server that appends the same body to the same broker and knows no tokens, no contract and no
order. Both get the same transactions from one client: first as many as they take at 64 connections, then at a steady rate, where a request's
time counts from when it was due, so that a server that falls behind shows it. Every 202 comes after the broker's acknowledgement.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from aiohttp import web
from rich.console import Console

from infra import ports
from infra.kafka_server import KafkaServer
from streams import kafka, topics
from streams.ingress.publisher import Publisher
from streams.settings import Settings
from tests.bench.month_end import percentile
from tests.e2e.processes import Pipeline, free_port
from tests.waiting import wait_until

TOKEN = "a-token-of-the-bench"
RULES = f"""
[programs.grand]
name = "Grand"
time_zone = "UTC"
[programs.grand.earn]
points_per_unit = {{ EUR = 1 }}
[[programs.grand.tiers]]
name = "MEMBER"
threshold_points = 0
[tokens.bench]
token = "{TOKEN}"
scopes = ["transactions:write"]
"""
CONNECTIONS = 64
GOAL_PER_S, GOAL_P99_MS = 2_000, 50.0


def request(number: int) -> bytes:
    body = json.dumps({
        "program_id": "grand", "member_id": f"M-{number % 5_000}", "transaction_id": f"bench:{number}", "kind": "EARN", "amount_minor": 4_200,
        "currency": "EUR", "category": "room",
    }).encode()  # fmt: skip
    head = f"POST /v1/transactions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def drive(port: int, count: int, per_second: float) -> dict[str, Any]:
    """Send them over CONNECTIONS connections, one at a time on each; 0 a second: as fast as they are answered."""
    numbers, took_ms = iter(range(count)), list[float]()
    started_s = time.perf_counter()

    async def send_some() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            due_s = time.perf_counter()
            if per_second:
                due_s = started_s + number / per_second
                await asyncio.sleep(due_s - time.perf_counter())
            writer.write(request(number))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 202"), head
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            took_ms.append((time.perf_counter() - due_s) * 1000)
        writer.close()

    await asyncio.gather(*(send_some() for _ in range(CONNECTIONS)))
    per_s = count / (time.perf_counter() - started_s)
    return {"requests": count, "per_s": per_s, "p50_ms": percentile(took_ms, 50), "p99_ms": percentile(took_ms, 99)}


async def serve_bare(settings: Settings, port: int) -> None:
    """A body -> a record, and 202 after the broker's word. That is all."""
    publisher, topic = Publisher(settings), topics.TRANSACTIONS.name(settings.topic_prefix)

    async def take(asked: web.Request) -> web.Response:
        body = await asked.read()
        await publisher.send(topic, body[-16:], body, {})
        return web.Response(status=202, text="accepted")

    app = web.Application()
    app.router.add_post("/v1/transactions", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


@contextmanager
def subject(name: str, settings: Settings) -> Iterator[int]:
    """The port that it answers on."""
    if name == "ingress":
        ingress = Pipeline(settings, "ingress", http_port=settings.ingress_port)
        try:
            yield int(ingress.wait_ready().settings.ingress_port)
        finally:
            ingress.kill()
        return
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.ingress", "--bare", str(port), "--broker", settings.kafka_bootstrap_servers]
    process = subprocess.Popen([*command, "--prefix", settings.topic_prefix])
    try:
        wait_until(lambda: ports.accepts(port), timeout_s=30)
        yield port
    finally:
        process.kill()
        process.wait()


@click.command()
@click.option("--requests", default=20_000, show_default=True, help="Of each round.")
@click.option("--per-second", default=float(GOAL_PER_S), show_default=True, help="Steady rate of the second round.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("--bare", "bare_port", type=int, hidden=True)
@click.option("--broker", hidden=True, default="")
@click.option("--prefix", hidden=True, default="")
def main(requests: int, per_second: float, as_json: bool, bare_port: int | None, broker: str, prefix: str) -> None:
    """Measure what one ingress takes, and a bare loop."""
    if bare_port is not None:
        asyncio.run(serve_bare(Settings(kafka_bootstrap_servers=broker, topic_prefix=prefix), bare_port))
        return
    console = Console(stderr=as_json)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="loyalty-bench-", ignore_cleanup_errors=True) as folder:
        server = KafkaServer(Path(folder))
        server.start()
        try:
            file = Path(folder) / "loyalty.toml"
            file.write_text(RULES)
            settings = Settings(
                home=folder, config_file=str(file), kafka_bootstrap_servers=server.bootstrap_servers, kafka_replication_factor=1, kafka_partitions=4,
                voucher_key="a key for the bench only", log_level="WARNING", ingress_port=free_port(),
            )  # fmt: skip
            for name in ("bare", "ingress"):
                own = replace(settings, topic_prefix=f"bench-{name}")
                kafka.ensure_topics(own)
                with subject(name, own) as port, console.status(f"{name}: {requests:,} requests, twice"):
                    asyncio.run(drive(port, requests // 10, 0))  # What is warm stays out of the figures.
                    results[name] = {"full": asyncio.run(drive(port, requests, 0)), "steady": asyncio.run(drive(port, requests, per_second))}
        finally:
            server.stop()
    ratio = results["ingress"]["full"]["per_s"] / results["bare"]["full"]["per_s"]
    if as_json:
        click.echo(json.dumps(results | {"ratio": ratio}, indent=2))
        return
    for name, rounds in results.items():
        for kind, one in rounds.items():
            console.print(f"{name:8} {kind:7} {one['per_s']:8,.0f}/s   p50 {one['p50_ms']:6.1f} ms   p99 {one['p99_ms']:6.1f} ms")
    console.print(f"The ingress takes {ratio:.0%} of the bare loop. B16: >= {GOAL_PER_S:,}/s, p99 <= {GOAL_P99_MS:.0f} ms.")


if __name__ == "__main__":
    main()
