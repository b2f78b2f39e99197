"""How deliveries fare, asked of all webhook sinks at once: each knows about the partitions that it owns, and the answers are put together."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from streams import topics
from streams.ingress.accounts import read_bounded
from streams.settings import Settings

ANSWER_TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 16 * 1024 * 1024  # Of thousands of destinations.
BREAKERS = ("closed", "half-open", "open")
"""From the best to the worst."""
COUNTS = ("waiting", "in_flight", "concurrency", "parked_members", "blocked_members", "behind_records")
LANE_FIELDS = ("member", "channel", "waiting", "attempts", "failing_since_ms", "due_at_ms", "is_blocked", "event_id", "detail")

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job has come."""

    done: frozenset[int]
    running: frozenset[int]
    counts: Mapping[str, int]
    """matched, delivered, given_up, passed_over, gone."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What the answers do not tell of."""

    unreachable: tuple[str, ...]
    """URLs of LOYALTY_SINK_URLS that gave no answer."""
    partitions: tuple[int, ...] = ()
    """Partitions of the events that nobody owns just now."""

    def shown(self) -> dict[str, Any]:
        return {
            "incomplete": bool(self.unreachable or self.partitions), "unreachable": list(self.unreachable), "partitions_missing": list(self.partitions),
        }  # fmt: skip


class Standings:
    """Asks the sinks. None of them needs to be up."""

    def __init__(self, settings: Settings) -> None:
        self._partitions = range(settings.kafka_partitions)
        self._sinks = [url.strip().rstrip("/") for url in settings.sink_urls.split(",") if url.strip()]
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S), headers={"Authorization": f"Bearer {settings.internal_token}"}
        )

    async def close(self) -> None:
        await self._session.close()

    async def of(self, name: str) -> tuple[dict[str, Any], Missing]:
        """The standing of a destination, over all sinks."""
        answers, unreachable = await self._ask_all("/internal/destinations")
        owned = {number for answer in answers for number in answer["partitions"].get(topics.EVENTS.stream, ())}
        found = [answer["destinations"][name] for answer in answers if name in answer["destinations"]]
        return _together(found), self._missing(unreachable, owned)

    async def targets(self, names: Collection[str]) -> dict[str, dict[str, Any]]:
        """The standings of connected systems that are written to, over all sinks; of those that some sink knows."""
        answers, _ = await self._ask_all("/internal/destinations")
        found = {name: [answer["destinations"][name] for answer in answers if name in answer["destinations"]] for name in names}
        return {name: _together(ones) | _of_target(ones) for name, ones in found.items() if ones}

    async def lanes(self, name: str, limit: int, after: str) -> tuple[list[dict[str, Any]], Missing]:
        """The first `limit` members behind `after` who wait: LANE_FIELDS, by member and channel. A member's are all there, or none is."""
        query = urlencode({"limit": limit, "after": after})
        answers, unreachable = await self._ask_all(f"/internal/destinations/{quote(name, safe='')}/lanes?{query}")
        rows = {(row["member"], row["channel"]): {field: row[field] for field in LANE_FIELDS} for answer in answers for row in answer["lanes"]}
        return [rows[key] for key in sorted(rows)][:limit], Missing(unreachable)

    async def progress(self, job_id: str) -> tuple[Progress, Missing]:
        answers, unreachable = await self._ask_all(f"/internal/jobs/{quote(job_id, safe='')}")
        counts: Counter[str] = Counter()
        for answer in answers:
            counts.update(answer["counts"])
        done, running, owned = (
            frozenset(number for answer in answers for number in answer[which]) for which in ("done_partitions", "running_partitions", "partitions")
        )
        return Progress(done=done, running=running - done, counts=counts), self._missing(unreachable, owned)

    def _missing(self, unreachable: tuple[str, ...], owned: "set[int] | frozenset[int]") -> Missing:
        return Missing(unreachable, tuple(number for number in self._partitions if number not in owned))

    async def _ask_all(self, path: str) -> tuple[list[Any], tuple[str, ...]]:
        """The answers that came, and the URLs of those that did not answer."""
        answers = await asyncio.gather(*(self._ask(url + path) for url in self._sinks))
        came = [answer for answer in answers if answer is not None]
        return came, tuple(url for url, answer in zip(self._sinks, answers, strict=True) if answer is None)

    async def _ask(self, url: str) -> Any | None:
        try:
            async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
                return orjson.loads(await read_bounded(response, ANSWER_BYTES_MAX)) if response.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None


def _together(found: list[Fields]) -> dict[str, Any]:
    """One standing of those of several processes."""
    failing = sorted((one for one in found if one["failing_since_ms"] is not None), key=lambda one: one["failing_since_ms"])
    oldest = [one["oldest_ms"] for one in found if one["oldest_ms"] is not None]
    return {
        **{name: sum(one[name] for one in found) for name in COUNTS},
        "oldest_ms": min(oldest, default=None),
        "breaker": max((one["breaker"] for one in found), key=BREAKERS.index, default=BREAKERS[0]),
        "failing_since_ms": failing[0]["failing_since_ms"] if failing else None,
        "last_failure": failing[0]["last_failure"] if failing else "",
    }


def _of_target(found: list[Fields]) -> dict[str, Any]:
    """What only connectors have."""
    told = max(found, key=lambda one: one["last_error_at_ms"] or 0)
    counted = max(found, key=lambda one: one["budget_used"] or 0)
    return {
        "is_paused": any(one["is_paused"] for one in found), "rests_s": max(one["rests_s"] for one in found), "last_error": told["last_error"],
        "last_error_at_ms": told["last_error_at_ms"], "last_success_at_ms": max((one["last_success_at_ms"] or 0 for one in found)) or None,
        "budget_used": counted["budget_used"], "budget_allowed": counted["budget_allowed"],
    }  # fmt: skip
