"""A destination of webhooks as everybody sees it: the sink, the REST API, the command line and the configuration file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from streams.scheduling.cadence import Cadence, window_of

DAY_S = 24 * 3600.0


class State(StrEnum):
    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"  # By an operator: events are kept.
    DISABLED = "DISABLED"  # By the sink, or an operator: events are kept, and somebody must look.


class OnDeadLetter(StrEnum):
    """What a member's lane does when one of its events is given up."""

    RELEASE = "RELEASE"
    BLOCK = "BLOCK"


class Breaker(StrEnum):
    ON = "ON"
    OBSERVE = "OBSERVE"  # It says what it would do, and does nothing.
    OFF = "OFF"


class Scheme(StrEnum):
    HMAC = "v1"
    ED25519 = "v1a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One signing key. All that have not expired sign every delivery."""

    secret_id: str
    value: str = field(repr=False)
    """whsec_... of scheme v1, whsk_... of scheme v1a."""
    created_at_ms: int = 0
    expires_at_ms: int | None = None

    @property
    def scheme(self) -> Scheme:
        return Scheme.ED25519 if self.value.startswith("whsk_") else Scheme.HMAC


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """`Authorization: Bearer <token>` on every delivery."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """OAuth 2.0 client credentials (RFC 6749, 4.4): a token is fetched, kept until shortly before its end, and fetched anew after a 401."""

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str = ""
    audience: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A receiver of signed webhooks. Times are in seconds where the name does not say otherwise."""

    name: str
    """a-z, 0-9 and '-', 63 characters at most."""
    url: str
    secrets: tuple[Secret, ...]
    """One at least."""
    programs: frozenset[str] = frozenset()
    """Programmes it hears of; empty: all."""
    events: frozenset[str] = frozenset()
    """Kinds it hears of, of LoyaltyEventKind and NoticeKind; empty: all of LoyaltyEventKind."""
    filters: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Field of the event's data, dotted ("account.tier"), to the values that pass, as texts; all must pass."""
    payload_version: str = "1"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further headers of every delivery, by lower-case name; values may be secret."""
    authorization: Bearer | ClientCredentials | None = None
    timeout_s: float = 15.0
    """For a whole exchange, from the look-up of the name to the last byte of the body."""
    concurrency_max: int = 32
    """Most deliveries under way at once in one process; the sink adapts below it."""
    rate_max_per_s: float | None = None
    """Most attempts a second, all processes together; None: no limit."""
    retry_delays_s: tuple[float, ...] = ()
    """Delays after the first, second ... failure, the last one from then on; empty: 0.2 s, doubling to 30 s. With jitter."""
    give_up_after_s: float = 3 * DAY_S
    """An event that has failed for this long, while the destination takes others, is given up."""
    retry_after_max_s: float = 15 * 60.0
    """Most that the destination's own Retry-After is believed."""
    dead_letter_statuses: frozenset[int] = frozenset()
    """Statuses of 400 to 499 after which an event is given up at once; empty: none, all are tried again."""
    on_dead_letter: OnDeadLetter = OnDeadLetter.RELEASE
    breaker: Breaker = Breaker.ON
    disable_after_s: float | None = 5 * DAY_S
    """A destination that takes nothing for this long is disabled; None: never."""
    cadence_s: float | None = None
    """How often BATCHABLE kinds are sent, in batches; with neither it nor `cadence_cron`: each at once. All others are real time always."""
    cadence_cron: str = ""
    """... or when: five fields, in `cadence_time_zone`."""
    cadence_time_zone: str = "UTC"
    """Of `cadence_cron` and `cadence_window`."""
    cadence_window: str = ""
    """Times of the day between which batches begin, "22:00-05:00"; empty: the whole day."""
    coalesce: bool = False
    """Of COALESCABLE kinds only the newest event of a member goes out, if it says all that the older ones say."""
    batch_events_max: int = 100
    start_at_ms: int = 0
    """It hears of what was appended to the log since; 0: of all that the log still has."""
    version: int = 0
    """Of the control topic, from 1; 0: from the configuration file, which alone may change it."""
    changed_by: str = ""
    changed_at_ms: int = 0

    @property
    def cadence(self) -> Cadence | None:
        """When batches go out; None: there are none."""
        if self.cadence_s is None and not self.cadence_cron:
            return None
        return Cadence(
            every_s=self.cadence_s, cron=self.cadence_cron, time_zone=self.cadence_time_zone,
            window=window_of(self.cadence_window) if self.cadence_window else None,
        )  # fmt: skip


BATCHABLE = frozenset({"PROFILE_CHANGED", "MEMBER_ENROLLED", "OFFER_ACTIVATED", "TIER_RETAINED", "STATUS_SCHEDULED", "COMMAND_REFUSED", "IDENTITY_CONFLICT"})
"""Kinds that move no points, no tier and no status: a destination may take them in batches."""
COALESCABLE = frozenset({"PROFILE_CHANGED", "TIER_RETAINED"})
"""Of them those that say how something is now, and not that something happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationState:
    """Whether it is sent to."""

    name: str
    state: State = State.ACTIVE
    reason: str = ""
    """Stable code: OPERATOR, GONE (it answered 410), FAILING (disable_after_s is over)."""
    detail: str = ""
    failing_since_ms: int | None = None
    """The sink's own note: nothing gets through since. Empty: all is well."""
    version: int = 0
    changed_by: str = ""
    changed_at_ms: int = 0


class Action(StrEnum):
    REPLAY = "REPLAY"  # Send again what the filters choose.
    RETRY = "RETRY"  # Members that wait: try now.
    SKIP = "SKIP"  # Members that are blocked: pass over the event that was given up, and go on.


class Which(StrEnum):
    ALL = "ALL"
    MISSING = "MISSING"  # No delivery is on record.
    FAILED = "FAILED"  # Given up or passed over, and not delivered since.


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to be done once for a destination, by all that own partitions. Its progress is with them."""

    job_id: str
    """a-z, 0-9 and '-'; unique."""
    destination: str
    action: Action = Action.REPLAY
    since_ms: int = 0
    until_ms: int = 0
    """REPLAY: the range of times at which the events were appended to the log, `until` not included. Always set."""
    events: frozenset[str] = frozenset()
    programs: frozenset[str] = frozenset()
    members: frozenset[str] = frozenset()
    """program_id/member_id; empty: all."""
    event_ids: frozenset[str] = frozenset()
    which: Which = Which.ALL
    is_dry_run: bool = False
    """Count only."""
    rate_max_per_s: float | None = 100.0
    is_cancelled: bool = False
    created_by: str = ""
    created_at_ms: int = 0
    version: int = 0
