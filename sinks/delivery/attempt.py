"""One attempt: records -> body -> signature -> POST -> what it means (Standard Webhooks 1.0.0, schemes v1 and v1a).

What a status means for the event:

    2xx                      delivered
    3xx                      tried again: redirects are not followed, they would turn the POST into a GET without a body
    408, 425, 429, 5xx       tried again, after Retry-After (seconds or a date) if there is one
    410                      tried again when the destination is enabled again: it is disabled, and its operator is told
    other 4xx                tried again, unless the destination's dead_letter_statuses name it: most are a receiver's mistake that is mended
                             within hours, and none proves that the event is wrong
    no answer                tried again (name not found, address not allowed, refused, TLS, timeout, reset, not HTTP, no token)

What fails on its own for give_up_after_s, while others get through, is given up with RETRIES_EXHAUSTED.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from schemas.records import DeliveryNotice, LoyaltyEvent
from sinks import payloads
from sinks.authorization import tokens_of
from sinks.base import Receipt, Verdict
from sinks.delivery.records import Outgoing
from sinks.transport import Answer, Failure, Transport
from streams import signatures
from streams.connectors.tokens import TokenError
from streams.destinations.model import Destination, Secret
from streams.http_headers import retry_after_s
from streams.settings import Settings

CORRELATION_ID = re.compile(r"[!-~]{1,128}")
REPLAY_HEADER = "loyalty-replay"
GONE = "GONE"
MASKED = "***"
SHOWN_REQUEST_HEADERS = frozenset({"content-type", "webhook-id", "webhook-timestamp", "webhook-signature", "x-correlation-id", REPLAY_HEADER})
"""All others are the destination's own, and may be secret."""
HIDDEN_RESPONSE_HEADERS = re.compile(r"cookie|authorization|authentication|token|secret|key|password", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one attempt."""

    receipt: Receipt
    outcome: str
    """The status, or the name of the failure."""
    webhook_id: str
    started_at_ms: int
    seconds: float
    count: int
    """How many of the records it is about: a batch ends before one that cannot be rendered."""
    was_answered: bool
    """Whether there is an answer of the destination."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """As sent. Secrets are in them."""
    body: bytes = b""
    answer: Answer | None = None

    @classmethod
    def raised(cls, records: Sequence[Outgoing], now_ms: int) -> "Result":
        """An attempt that broke off by an error of ours."""
        return cls(
            receipt=Receipt(verdict=Verdict.RETRY, detail="the attempt raised an error: the log has it"), outcome="ERROR",
            webhook_id=records[0].event_id if records else "", started_at_ms=now_ms, seconds=0.0, count=len(records), was_answered=False,
        )  # fmt: skip


class Exchange:
    """Attempts of one destination, as it is configured now."""

    def __init__(self, destination: Destination, transport: Transport, *, clock: Callable[[], float] = time.time) -> None:
        self._destination = destination
        self._transport = transport
        self._clock = clock
        self._signers: dict[tuple[str, ...], signatures.Signer] = {}
        self._tokens = None if destination.authorization is None else tokens_of(destination.authorization, transport)

    async def send(self, records: list[Outgoing], *, is_batch: bool, job: str, timeout_s: float) -> Result:
        """One attempt at one record, or at a batch of them."""
        started_at_s = self._clock()
        webhook_id = batch_id(records) if is_batch else records[0].event_id
        try:
            bodies = self._bodies(records)
            if len(bodies) < len(records):
                webhook_id = batch_id(records[: len(bodies)])
            body = bodies[0] if not is_batch else payloads.render_batch(bodies, webhook_id, records[len(bodies) - 1].timestamp_ms)
            headers = self.signer(started_at_s).headers(webhook_id, int(started_at_s), body)
        except KeyError:
            detail = "this version does not know the event's kind: upgrade the sink and replay the event"
            return _unsendable("KIND_UNKNOWN", detail, records[0].event_id, started_at_s)
        except (ValueError, OverflowError, TypeError) as error:
            return _unsendable("NOT_RENDERABLE", f"{type(error).__name__}: {error}", records[0].event_id, started_at_s)
        headers["content-type"] = "application/json"
        if not is_batch and CORRELATION_ID.fullmatch(records[0].correlation_id):
            headers["x-correlation-id"] = records[0].correlation_id
        if job:
            headers[REPLAY_HEADER] = job
        return await self.post(webhook_id, headers, body, count=len(bodies), started_at_s=started_at_s, timeout_s=timeout_s)

    async def post(self, webhook_id: str, headers: dict[str, str], body: bytes, *, count: int, started_at_s: float, timeout_s: float) -> Result:
        """The exchange itself. `headers` get the destination's own."""
        destination = self._destination
        headers |= destination.headers
        answer = await self._authorized(headers, body, timeout_s)
        return Result(
            receipt=judge(answer, destination.dead_letter_statuses, now_s=self._clock()), outcome=answer.outcome, webhook_id=webhook_id,
            started_at_ms=int(started_at_s * 1000), seconds=answer.seconds, count=count, was_answered=answer.failure is None, headers=headers, body=body,
            answer=answer,
        )  # fmt: skip

    def signer(self, now_s: float) -> signatures.Signer:
        """Signs with all keys that have not expired, and with the youngest if all have."""
        values = tuple(one.value for one in self._valid(now_s))
        signer = self._signers.get(values)
        if signer is None:
            self._signers.clear()
            signer = self._signers[values] = signatures.Signer(values)
        return signer

    def _valid(self, now_s: float) -> Sequence[Secret]:
        secrets = self._destination.secrets
        valid = [one for one in secrets if one.expires_at_ms is None or one.expires_at_ms > now_s * 1000]
        return valid or [max(secrets, key=lambda one: one.created_at_ms)]

    def _bodies(self, records: Sequence[Outgoing]) -> list[bytes]:
        """Of the records before the first that cannot be rendered; if that is the first one, its error is raised."""
        version = self._destination.payload_version
        bodies: list[bytes] = []
        for one in records:
            body = one.bodies.get(version)
            if body is None:
                try:
                    body = one.bodies[version] = payloads.render(one.record, version)
                except (KeyError, ValueError, OverflowError, TypeError):
                    if bodies:
                        break
                    raise
            bodies.append(body)
        return bodies

    async def _authorized(self, headers: dict[str, str], body: bytes, timeout_s: float) -> Answer:
        """With a token that is good, if the destination wants one: after a 401 once more with a fresh one, within the same time."""
        tokens = self._tokens
        if tokens is None:
            return await self._transport.request("POST", self._destination.url, headers=headers, body=body, timeout_s=timeout_s)
        began_s = time.monotonic()
        for is_last in (False, True):
            try:
                token = await tokens.get()
            except TokenError as error:
                return Answer(seconds=time.monotonic() - began_s, failure=Failure.AUTHORIZATION, detail=str(error))
            headers |= token.headers
            left_s = max(0.1, timeout_s - (time.monotonic() - began_s))
            answer = await self._transport.request("POST", self._destination.url, headers=headers, body=body, timeout_s=left_s)
            if answer.status != 401 or is_last or not tokens.refuse(token):
                return answer
        raise AssertionError("the loop has returned")


def judge(answer: Answer, dead_letter_statuses: frozenset[int] = frozenset(), *, now_s: float) -> Receipt:
    """What the answer means for the event: the table at the top of this module."""
    status = answer.status
    if answer.failure is not None or status is None:
        return Receipt(verdict=Verdict.RETRY, detail=f"{answer.outcome}: {answer.detail}")
    if 200 <= status < 300:
        return Receipt(verdict=Verdict.DELIVERED, status=status)
    if status in dead_letter_statuses:
        return Receipt(verdict=Verdict.REFUSED, status=status, reason=f"STATUS_{status}", detail=f"status {status}, which the destination gives up on")
    if status == 410:
        return Receipt(verdict=Verdict.RETRY, status=status, reason=GONE, detail="410: the receiver wants no more events")
    wish_s = retry_after_s(answer.headers.get("retry-after", ""), now_s)
    return Receipt(verdict=Verdict.RETRY, status=status, retry_after_s=wish_s, detail=f"status {status}")


def batch_id(records: Sequence[Outgoing]) -> str:
    """The webhook-id of a batch: the same for the same events."""
    return "batch-" + hashlib.sha256("\n".join(one.event_id for one in records).encode()).hexdigest()[:32]


def kind_of(record: LoyaltyEvent | DeliveryNotice) -> str:
    return record.kind.value


def masked_request(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers as they may be kept: what is not ours may be secret."""
    return {name: value if name in SHOWN_REQUEST_HEADERS else MASKED for name, value in headers.items()}


def masked_url(url: str) -> str:
    """An address as it may be kept: values of its query may be secret, as `?token=...` is."""
    if "?" not in url:
        return url
    split = urlsplit(url)
    query = "&".join(f"{name}={MASKED}" if value else name for name, _, value in (part.partition("=") for part in split.query.split("&")))
    return urlunsplit(split._replace(query=query))


def masked_response(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): MASKED if HIDDEN_RESPONSE_HEADERS.search(name) else value[:500] for name, value in list(headers.items())[:50]}


def _unsendable(reason: str, detail: str, webhook_id: str, started_at_s: float) -> Result:
    receipt = Receipt(verdict=Verdict.REFUSED, reason=reason, detail=detail)
    return Result(receipt=receipt, outcome=reason, webhook_id=webhook_id, started_at_ms=int(started_at_s * 1000), seconds=0.0, count=1, was_answered=False)


async def send_test(settings: Settings, destination: Destination) -> dict[str, object]:
    """Sign and send one `loyalty.test` event now, once, and say what came back. Raises ConfigurationError for a malformed allow-list."""
    from sinks.addresses import parse_allowed

    transport = Transport(parse_allowed(settings.delivery_allowed_addresses))
    try:
        exchange = Exchange(destination, transport)
        now_s = time.time()
        body = payloads.test_body(destination.name, int(now_s * 1000))
        webhook_id = f"test-{int(now_s * 1000)}"
        headers = exchange.signer(now_s).headers(webhook_id, int(now_s), body) | {"content-type": "application/json"}
        result = await exchange.post(webhook_id, headers, body, count=1, started_at_s=now_s, timeout_s=destination.timeout_s)
        answer = result.answer
        return {
            "webhook_id": webhook_id, "delivered": result.receipt.verdict is Verdict.DELIVERED, "outcome": result.outcome, "detail": result.receipt.detail,
            "duration_ms": round(result.seconds * 1000, 1), "peer_address": answer.peer_address if answer else None,
            "request_headers": masked_request(result.headers), "response_headers": masked_response(answer.headers) if answer else {},
            "response_body": answer.body[:2048].decode(errors="replace") if answer else "",
        }  # fmt: skip
    finally:
        await transport.close()
