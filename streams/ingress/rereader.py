"""webhook-inbox -> the entity, read again from its own system -> the command in it. Runs in the ingress, one group per source."""

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from schemas.records import ReceivedWebhook
from sinks.base import Item, Receipt, Verdict
from sinks.runner import run_lanes
from streams import metrics, topics
from streams.configuration import Source
from streams.errors import ContractError, UnavailableError
from streams.ingress import apaleo, commands
from streams.ingress.accounts import read_bounded
from streams.ingress.parts import Parts

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 1024 * 1024
CONCURRENCY_MAX = 8  # Reservations read at once: a PMS allows few requests a second.
TOKEN_MARGIN_S = 30.0  # A token is renewed this long before it ends, so that none ends on the way.
TOKEN_LIFE_S = 300.0  # Assumed when the token endpoint does not say.


async def run(parts: Parts, source: Source, stop: asyncio.Event) -> None:
    """Follow the hints of one source until `stop` is set."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)) as session:
        rereader = Rereader(parts, source, session)
        await run_lanes(
            parts.settings,
            sink=f"reread-{source.name}",
            group=f"ingress-reread-{source.name}",
            topic=topics.WEBHOOK_INBOX,
            deliver=rereader.deliver,
            lane=lambda item: item.record.entity_id,
            concurrency_max=CONCURRENCY_MAX,
            stop=stop,
        )


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    ends_s: float


class Rereader:
    """Reads one source's reservations with an OAuth 2.0 client-credentials token."""

    def __init__(self, parts: Parts, source: Source, session: aiohttp.ClientSession) -> None:
        self._parts = parts
        self._source = source
        self._session = session
        self._token: _Token | None = None
        self._renewing = asyncio.Lock()

    async def deliver(self, item: Item[ReceivedWebhook]) -> Receipt:
        """DELIVERED once the command, if there is one, is in its topic."""
        hint = item.record
        if hint.source != self._source.name:
            return Receipt(verdict=Verdict.SKIPPED)
        status, retry_after_s, body = await self._read(hint.entity_id)
        if status == 200:
            receipt = await self._send(hint, body)
        else:
            receipt = judge(status, retry_after_s, self._source.name)
        metrics.INGRESS_REREADS.labels(self._source.name, receipt.verdict.value).inc()
        log.info(
            "entity.reread",
            extra={
                "source": self._source.name, "entity_id": hint.entity_id, "kind": hint.kind, "verdict": receipt.verdict.value,
                "detail": receipt.detail, "status": status, "attempt": item.attempt, "correlation_id": hint.correlation_id,
            },
        )  # fmt: skip
        return receipt

    async def _send(self, hint: ReceivedWebhook, body: bytes) -> Receipt:
        try:
            command = apaleo.to_transaction(apaleo.load_reservation(body), hint.kind, hint.received_at_ms, self._source)
            if command is None:
                return Receipt(verdict=Verdict.DELIVERED, detail="nothing to credit", status=200)
            sent = self._parts.send(command, hint.correlation_id or self._parts.decisions.new_id())
            await self._parts.acknowledged(sent, self._source.name)
        except ContractError as error:
            # A page instead of JSON comes from something in between, and passes.
            verdict = Verdict.RETRY if error.reason == "NOT_JSON" else Verdict.REFUSED
            return Receipt(verdict=verdict, reason=error.reason, detail=error.detail, status=200)
        except UnavailableError as error:
            return Receipt(verdict=Verdict.RETRY, detail=str(error), status=200)
        return Receipt(verdict=Verdict.DELIVERED, detail=commands.TOPIC_OF[type(command)].stream, status=200)

    async def _read(self, entity_id: str) -> tuple[int, float | None, bytes]:
        """Status, Retry-After and body of the reservation; status 0 when nothing came. A token that ended early is renewed once."""
        url = URL(self._source.base_url.rstrip("/") + f"/booking/v1/reservations/{quote(entity_id, safe='')}", encoded=True)
        try:
            answer = await self._get(url, await self._bearer(None))
            if answer[0] == 401:
                answer = await self._get(url, await self._bearer(self._token))
            return answer
        except UnavailableError as error:
            return 0, None, str(error).encode()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("source.unreachable", extra={"source": self._source.name, "reason": f"{type(error).__name__}: {error}"})
            return 0, None, b""

    async def _get(self, url: URL, bearer: str) -> tuple[int, float | None, bytes]:
        headers = {"Authorization": f"Bearer {bearer}", "Accept": "application/json"}
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            body = await read_bounded(response, ANSWER_BYTES_MAX)
            return response.status, parse_retry_after(response.headers.get("Retry-After"), time.time()), body

    async def _bearer(self, refused: _Token | None) -> str:
        """The cached token, or a new one if that has ended or was `refused`. Raises UnavailableError."""
        async with self._renewing:
            if self._token is None or self._token is refused or time.monotonic() > self._token.ends_s - TOKEN_MARGIN_S:
                self._token = await self._new_token()
            return self._token.value

    async def _new_token(self) -> _Token:
        place = f"sources.{self._source.name}"
        form = {"grant_type": "client_credentials", "client_id": self._source.client_id, "client_secret": self._source.client_secret}
        async with self._session.post(self._source.identity_url, data=form, allow_redirects=False) as response:
            body = await read_bounded(response, ANSWER_BYTES_MAX)
            if response.status != 200:
                reason = f"{place}.identity_url answers {response.status}: check {place}.client_id and {place}.client_secret"
                log.warning("token.refused", extra={"source": self._source.name, "status": response.status, "reason": reason})
                raise UnavailableError(reason)
        answer = _object(body)
        value, life_s = answer.get("access_token"), answer.get("expires_in", TOKEN_LIFE_S)
        if type(value) is not str or not value.isascii() or not value.isprintable() or type(life_s) not in (int, float):
            raise UnavailableError(f"{place}.identity_url answers without an access_token")
        return _Token(value, time.monotonic() + max(life_s, 2 * TOKEN_MARGIN_S))


def judge(status: int, retry_after_s: float | None, source: str) -> Receipt:
    """What becomes of a hint when its entity could not be read. Pure."""
    if status in (404, 410):
        return Receipt(verdict=Verdict.REFUSED, reason="ENTITY_UNKNOWN", detail="the source does not know the entity", status=status)
    if status == 0:
        return Receipt(verdict=Verdict.RETRY, detail=f"sources.{source}.base_url or identity_url does not answer")
    if status in (401, 403):
        # A matter of settings, not of this entity: it is read once somebody has mended them.
        return Receipt(verdict=Verdict.RETRY, detail=f"the source refuses the token: check sources.{source}.client_id", status=status)
    if status in (408, 425, 429) or status >= 500 or status < 400:
        return Receipt(verdict=Verdict.RETRY, detail=f"the source answers {status}", status=status, retry_after_s=retry_after_s)
    return Receipt(verdict=Verdict.REFUSED, reason="READ_REFUSED", detail=f"the source answers {status}", status=status)


def parse_retry_after(header: str | None, now_s: float) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or a date; None if there is none that can be read."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(now_s, UTC)).total_seconds())


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = commands.load_json(body)
    except ContractError:
        return {}
    return value if isinstance(value, dict) else {}
