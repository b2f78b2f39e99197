"""The workers' internal ports -> the accounts as their tables have them, page by page; of a partition that moves, its new owner is asked."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from urllib.parse import urlencode

from streams.errors import ConfigurationError, UnavailableError
from streams.internal import ACCOUNTS_MAX, LENGTHS
from streams.settings import Settings

TIMEOUT_S = 10.0
OWNER_WAIT_S = 60.0  # A partition that moves has no owner for a moment.
ASK_AGAIN_S = 0.2


class Tables:
    """Methods raise UnavailableError when nobody owns a partition for a while."""

    def __init__(self, settings: Settings) -> None:
        self._urls = [url.strip().rstrip("/") for url in settings.worker_urls.split(",") if url.strip()]
        self._token = settings.internal_token

    def accounts(self, partition: int, start: bytes, limit: int = ACCOUNTS_MAX) -> Iterator[tuple[bytes, bytes]]:
        """Keys and stored accounts of a partition in their order, from the key `start` on; a page of `limit` at a time."""
        if not self._token:
            raise ConfigurationError("The workers show no accounts without LOYALTY_INTERNAL_TOKEN: set it to what they have.")
        while True:
            page = list(_rows(self._page(partition, start, limit)))
            yield from page
            if len(page) < limit:
                return
            start = page[-1][0] + b"\0"

    def account(self, partition: int, key: bytes) -> bytes | None:
        """One account as it is stored; None: there is none."""
        return next((value for found, value in self.accounts(partition, key, 1) if found == key), None) if key else None

    def _page(self, partition: int, start: bytes, limit: int) -> bytes:
        query = urlencode({"partition": partition, "start": start.decode(), "limit": limit})
        deadline_s = time.monotonic() + OWNER_WAIT_S
        while True:
            problems = []
            for url in list(self._urls):
                try:
                    page = self._ask(f"{url}/internal/accounts?{query}")
                    self._urls.remove(url)
                    self._urls.insert(0, url)  # It has the next page, too.
                    return page
                except (OSError, HTTPException) as error:
                    problems.append(f"{url}: {error}")
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"no worker of LOYALTY_WORKER_URLS owns partition {partition}: {'; '.join(problems)}")
            time.sleep(ASK_AGAIN_S)

    def _ask(self, url: str) -> bytes:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S) as response:
            return bytes(response.read())


def _rows(page: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(page):
        key_bytes, value_bytes = LENGTHS.unpack_from(page, place)
        place += LENGTHS.size
        yield page[place : place + key_bytes], page[place + key_bytes : place + key_bytes + value_bytes]
        place += key_bytes + value_bytes
