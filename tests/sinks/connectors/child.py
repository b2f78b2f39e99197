"""A process of its own that writes to the Points system at the given address until it is ended: for tests that kill and stop it."""

import asyncio
import sys

from streams import settings
from tests.sinks.connectors.support import process, target_of


async def main(base_url: str) -> None:
    async with process(settings.load(), target_of(base_url, timeout_s=1.0)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
