"""The bare loop beside which the sink is measured: aiohttp, a signature, a POST; no Kafka, no order, no retries, no records of anything.

Reads bodies, one a line, from a file; posts each once, `concurrency` at a time; prints one JSON line with its rate and its CPU time.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import aiohttp

from streams import signatures


async def post_all(url: str, secret: str, bodies: list[bytes], concurrency: int) -> float:
    """Seconds that it took."""
    signer, numbers = signatures.Signer([secret]), iter(range(len(bodies)))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def post_some() -> None:
            for number in numbers:
                headers = signer.headers(f"bare-{number}", int(time.time()), bodies[number]) | {"content-type": "application/json"}
                async with session.post(url, data=bodies[number], headers=headers, allow_redirects=False) as response:
                    await response.read()
                    assert response.status == 200

        started_s = time.perf_counter()
        await asyncio.gather(*(post_some() for _ in range(concurrency)))
        return time.perf_counter() - started_s


if __name__ == "__main__":
    url, secret, file, concurrency = sys.argv[1:]
    lines = Path(file).read_bytes().splitlines()
    cpu_s = time.process_time()
    took_s = asyncio.run(post_all(url, secret, lines, int(concurrency)))
    print(json.dumps({"deliveries_s": len(lines) / took_s, "cpu_us": (time.process_time() - cpu_s) / len(lines) * 1e6}))
