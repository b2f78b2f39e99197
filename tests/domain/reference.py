"""A naive second ledger, the oracle of the machine: it keeps every movement of every lot and works everything out again from the first one.

Written from the rules, not from the code: fractions instead of whole-number formulas, sums over all movements instead of running balances,
the plain calendar of UTC. A programme it judges has no pools, no transfers, no merges and no budgets: those are machine_many.py's.
"""

import math
from base64 import b32encode
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from hashlib import sha256

from schemas.contract import Command
from schemas.records import Enrolment, MemberOperation, MemberStatus, OfferActivation, ProfileChange, Transaction
from streams.domain.program import Demotion, EarnWhileSuspended, ExpiryRule, Offer, Period, Program, RefundOfExpired, ReversalPolicy, Rounding, Tier
from streams.domain.program import Window

DAY = 24 * 3600 * 1000
MINUTE = 60 * 1000
DIGITS = {"EUR": 2, "JPY": 0}
RANK = {MemberStatus.ACTIVE: 0, MemberStatus.SUSPENDED: 1, MemberStatus.LEFT: 2}
PARTS = ("remaining", "held", "spent", "expired", "clawed", "settled")

Part = tuple[str, int, int | None]
"""Lot, points, and when the lot expired when they were taken."""


def calendar(at_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)


def instant(year: int, month: int = 1, day: int = 1) -> int:
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return round((datetime(year, month, day, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1000


@dataclass
class Lot:
    """Points that came together, and all that became of them."""

    lot_id: str
    earned_at_ms: int
    expires_at_ms: int | None
    by_earn: bool = False
    pending: bool = False
    parked: bool = False
    """Pending for no other reason than that its member was not active when it came."""
    available_from_ms: int | None = None
    kept_by_activity: bool = False
    moves: list[tuple[str, str, int]] = field(default_factory=list)
    asked_back: int = 0
    """Of what was spent, how much reversals have asked for."""
    claw_later: int = 0
    """Of what is held, how much a reversal has asked for."""
    owed: int = 0
    """Of what was spent, how much a reversal has asked for in vain."""

    def of(self, part: str) -> int:
        return sum(points for _, target, points in self.moves if target == part) - sum(points for source, _, points in self.moves if source == part)

    def move(self, source: str, target: str, points: int) -> None:
        self.moves.append((source, target, points))
        assert self.of(source) >= 0 or source == "outside", f"{self.lot_id}: {source} below 0"

    @property
    def points(self) -> int:
        return sum(points for source, _, points in self.moves if source == "outside")

    @property
    def is_open(self) -> bool:
        return self.of("remaining") > 0 or self.of("held") > 0


@dataclass
class Hold:
    hold_id: str
    parts: list[Part]
    ends_at_ms: int | None


@dataclass
class Voucher:
    issued_by: str
    points: int
    expires_at_ms: int | None
    state: str = "ISSUED"
    code: str | None = None


@dataclass
class Deed:
    """A transaction that was decided."""

    kind: str
    decided_at_ms: int
    applied: bool
    parts: list[Part] = field(default_factory=list)
    made_lot: bool = False
    reversed_points: int = 0
    hold_ended_by: str | None = None


@dataclass
class Reference:
    program: Program
    enrolled_at_ms: int | None = None
    clock_ms: int = 0
    lots: dict[str, Lot] = field(default_factory=dict)
    debts: list[int] = field(default_factory=list)
    holds: dict[str, Hold] = field(default_factory=dict)
    deeds: dict[str, Deed] = field(default_factory=dict)
    vouchers: list[Voucher] = field(default_factory=list)
    qualified: list[tuple[int, int]] = field(default_factory=list)
    """Points, below 0 for reversals, and their effective time."""
    tier: str = ""
    tier_until_ms: int | None = None
    status: MemberStatus = MemberStatus.ACTIVE
    scheduled: tuple[MemberStatus, int] | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    last_words: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    """Part of the profile -> the source system that had the last word on it, and the greatest version with which it has spoken of it."""
    activations: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    """The bonuses that were given, by offer and period."""
    given_by_rules: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    last_activity_ms: int = 0

    # What the member has.

    @property
    def enrolled(self) -> bool:
        return self.enrolled_at_ms is not None

    @property
    def available(self) -> int:
        return sum(lot.of("remaining") for lot in self.lots.values() if not lot.pending)

    @property
    def pending(self) -> int:
        return sum(lot.of("remaining") for lot in self.lots.values() if lot.pending)

    @property
    def held(self) -> int:
        return sum(lot.of("held") for lot in self.lots.values())

    @property
    def debt(self) -> int:
        return sum(self.debts)

    @property
    def barred(self) -> str | None:
        """Why nothing leaves; None: it may."""
        return {MemberStatus.SUSPENDED: "ACCOUNT_SUSPENDED", MemberStatus.LEFT: "MEMBERSHIP_ENDED"}.get(self.status)

    @property
    def open_lots(self) -> list[Lot]:
        return sorted((lot for lot in self.lots.values() if lot.is_open), key=_soonest_first)

    def open_vouchers(self) -> list[str | None]:
        return [voucher.code for voucher in self.vouchers if voucher.state == "ISSUED"]

    def qualifying_at(self, at_ms: int) -> int:
        return sum(points for points, effective_ms in self.qualified if self._counts(effective_ms, at_ms))

    def _counts(self, effective_ms: int, at_ms: int) -> bool:
        policy = self.program.tier_policy
        if policy.window is Window.LIFETIME:
            return True
        if policy.window is Window.CALENDAR_YEAR:
            return calendar(effective_ms).year == calendar(at_ms).year
        if policy.window is Window.MEMBERSHIP_YEAR:
            return self._year_of_membership(effective_ms) == self._year_of_membership(at_ms)
        return 0 <= at_ms // DAY - effective_ms // DAY < policy.window_days

    def _year_of_membership(self, at_ms: int) -> int:
        number = 0
        while at_ms >= self._membership_starts(number + 1):
            number += 1
        return number

    def _membership_starts(self, number: int) -> int:
        joined = calendar(self.enrolled_at_ms or 0)
        return instant(joined.year + number, joined.month, joined.day)

    # Time.

    def dues(self) -> list[int]:
        """Every instant, known by now, at which something happens by itself."""
        found: list[int | None] = [self.tier_until_ms, self.scheduled[1] if self.scheduled else None]
        for lot in self.lots.values():
            if lot.of("remaining"):
                found += [lot.expires_at_ms, lot.available_from_ms if lot.pending else None]
        found += [hold.ends_at_ms for hold in self.holds.values()]
        found += [voucher.expires_at_ms for voucher in self.vouchers if voucher.state == "ISSUED"]
        return sorted(at_ms for at_ms in found if at_ms is not None)

    def catch_up(self, now_ms: int) -> None:
        while (due := self.dues()) and due[0] <= now_ms:
            self.clock_ms = max(due[0], self.clock_ms)
            self._happen(self.clock_ms)
        self.clock_ms = max(now_ms, self.clock_ms)

    def _happen(self, at_ms: int) -> None:
        if self.scheduled and self.scheduled[1] <= at_ms:
            self._set_status(self.scheduled[0], at_ms)
        activated = [lot for lot in self.lots.values() if lot.pending and lot.available_from_ms is not None and lot.available_from_ms <= at_ms]
        for lot in activated:
            lot.pending, lot.available_from_ms = False, None
        if activated:
            self._pay_debt(at_ms)
        for hold in list(self.holds.values()):
            if hold.ends_at_ms is not None and hold.ends_at_ms <= at_ms:
                self._let_go(hold, at_ms, "HOLD_EXPIRED")
        self._expire(at_ms)
        for voucher in self.vouchers:
            if voucher.state == "ISSUED" and voucher.expires_at_ms is not None and voucher.expires_at_ms <= at_ms:
                voucher.state = "EXPIRED"
        if self.tier_until_ms is not None and self.tier_until_ms <= at_ms:
            self._end_of_tier(self.tier_until_ms, at_ms)

    def _set_status(self, status: MemberStatus, at_ms: int) -> None:
        self.status, self.scheduled = status, None
        parked = [lot for lot in self.lots.values() if lot.parked and lot.of("remaining")]
        if parked and status is MemberStatus.ACTIVE:
            for lot in parked:
                lot.pending = lot.parked = False
            self._pay_debt(at_ms)

    # Lots.

    def spendable(self, at_ms: int) -> list[Lot]:
        """Soonest expiry first."""
        lots = [lot for lot in self.lots.values() if lot.of("remaining") and not lot.pending]
        return sorted((lot for lot in lots if lot.expires_at_ms is None or at_ms < lot.expires_at_ms), key=_soonest_first)

    def _take(self, points: int, into: str, at_ms: int) -> list[Part]:
        parts: list[Part] = []
        for lot in self.spendable(at_ms):
            mine = min(points, lot.of("remaining"))
            if mine:
                lot.move("remaining", into, mine)
                parts.append((lot.lot_id, mine, lot.expires_at_ms))
                points -= mine
        assert points == 0
        return parts

    def _expire(self, at_ms: int) -> None:
        for lot in self.lots.values():
            left = lot.of("remaining")
            if left and lot.expires_at_ms is not None and lot.expires_at_ms <= at_ms:
                lot.move("remaining", "expired", left)

    def _pay_debt(self, at_ms: int) -> None:
        points = min(self.debt, sum(lot.of("remaining") for lot in self.spendable(at_ms)))
        self._take(points, "settled", at_ms)
        self.debts.append(-points)

    def _known(self, lot_id: str, at_ms: int) -> Lot | None:
        lot = self.lots.get(lot_id)
        return lot if lot is not None and (lot.is_open or self._remembered(lot_id, at_ms)) else None

    def _remembered(self, transaction_id: str, at_ms: int) -> Deed | None:
        deed = self.deeds.get(transaction_id)
        return deed if deed is not None and at_ms - deed.decided_at_ms < self.program.idempotency_days * DAY else None

    def _expiry(self, from_ms: int) -> int | None:
        expiry, moment = self.program.expiry, calendar(from_ms)
        match expiry.rule:
            case ExpiryRule.NEVER:
                return None
            case ExpiryRule.AFTER_DAYS | ExpiryRule.INACTIVITY:
                return from_ms + expiry.days * DAY
            case ExpiryRule.END_OF_MONTH:
                return instant(moment.year, moment.month + expiry.months + 1)
            case ExpiryRule.END_OF_YEAR:
                return instant(moment.year + expiry.years + 1)
        days = (instant(year, expiry.month, expiry.day) for year in range(moment.year, moment.year + 9))
        return next(day for day in days if day > from_ms + expiry.days * DAY)

    def _stay_alive(self, lots: list[Lot], at_ms: int) -> None:
        self.last_activity_ms = max(self.last_activity_ms, at_ms)
        if self.program.expiry.rule is ExpiryRule.INACTIVITY:
            for lot in lots:
                if lot.kept_by_activity and lot.expires_at_ms is not None:
                    lot.expires_at_ms = max(lot.expires_at_ms, self.last_activity_ms + self.program.expiry.days * DAY)

    def _let_go(self, hold: Hold, at_ms: int, why: str, parts: list[Part] | None = None) -> None:
        del self.holds[hold.hold_id]
        for lot_id, points, _ in hold.parts if parts is None else parts:
            lot = self.lots[lot_id]
            clawed = min(points, lot.claw_later)
            lot.move("held", "remaining", points)
            lot.move("remaining", "clawed", clawed)
            lot.claw_later -= clawed
        self._expire(at_ms)
        self._pay_debt(at_ms)
        if deed := self._remembered(hold.hold_id, at_ms):
            deed.hold_ended_by = why

    def _recover(self, points: int, policy: ReversalPolicy, at_ms: int) -> int:
        """Points that are not in their lot any more. How many are owed, should they come back."""
        if policy is ReversalPolicy.ONLY_PENDING:
            return 0
        taken = min(points, self.available)
        self._take(taken, "settled", at_ms)
        if policy is ReversalPolicy.UNLIMITED:
            self.debts.append(points - taken)
            return 0
        return points - taken

    def _restore(self, parts: list[Part], command_id: str, at_ms: int) -> None:
        program, made = self.program, set()
        for lot_id, points, until_ms in parts:
            lot = self._known(lot_id, at_ms)
            if lot is not None:
                until_ms = lot.expires_at_ms
            grace = until_ms is not None and until_ms <= at_ms and program.refund_of_expired is RefundOfExpired.GRACE
            if grace:
                until_ms = at_ms + program.refund_grace_days * DAY
            owed = 0
            if lot is not None:
                owed = min(points, lot.owed)
                lot.owed -= owed
            if lot is None or lot.asked_back or grace or lot.of("spent") < points:
                lot = Lot(self._new_name(command_id, made), at_ms, until_ms)
                made.add(lot.lot_id)
                self.lots[lot.lot_id] = lot
                lot.move("outside", "remaining", points)
            else:
                lot.move("spent", "remaining", points)
            lot.move("remaining", "clawed", owed)
        self._expire(at_ms)
        self._pay_debt(at_ms)

    def _new_name(self, command_id: str, made: Collection[str]) -> str:
        """How the ledger names lots that no earn made; it says something about their order."""
        number = 0
        while True:
            text = "\0".join(("lot", "grand", "m-1", command_id, str(number)))
            name = "lot_" + b32encode(sha256(text.encode()).digest()).decode()[:26].lower()
            if name not in made and (name not in self.lots or not self.lots[name].is_open):
                return name
            number += 1

    # Tiers.

    def _rank(self, name: str) -> int:
        return [tier.name for tier in self.program.tiers].index(name)

    def _tier_of(self, points: int) -> Tier:
        return max((tier for tier in self.program.tiers if tier.threshold_points <= points), key=lambda tier: tier.threshold_points)

    def _set_tier(self, tier: Tier, until_ms: int | None, at_ms: int, gift: bool = True) -> None:
        if gift and tier.reward_code and self._rank(tier.name) > self._rank(self.tier):
            self._issue(tier.reward_code, f"tier:{tier.name}", 0, at_ms)
        self.tier, self.tier_until_ms = tier.name, until_ms if self._rank(tier.name) else None

    def _tier_lasts(self, at_ms: int) -> int | None:
        policy = self.program.tier_policy
        match policy.window:
            case Window.LIFETIME:
                return None
            case Window.CALENDAR_YEAR:
                end_ms = instant(calendar(at_ms).year + 2)
            case Window.MEMBERSHIP_YEAR:
                end_ms = self._membership_starts(self._year_of_membership(at_ms) + 2)
            case _:
                end_ms = at_ms + policy.window_days * DAY
        return end_ms + policy.grace_days * DAY

    def _promote(self, now_ms: int, occurred_ms: int) -> None:
        tier = self._tier_of(self.qualifying_at(now_ms))
        if self._rank(tier.name) > self._rank(self.tier):
            self._set_tier(tier, self._tier_lasts(now_ms), occurred_ms)

    def _reach(self, now_ms: int) -> int:
        """Points on which a tier rests: those of the period before keep it until its end."""
        match self.program.tier_policy.window:
            case Window.CALENDAR_YEAR:
                return max(self.qualifying_at(now_ms), self.qualifying_at(instant(calendar(now_ms).year) - 1))
            case Window.MEMBERSHIP_YEAR:
                return max(self.qualifying_at(now_ms), self.qualifying_at(self._membership_starts(self._year_of_membership(now_ms)) - 1))
        return self.qualifying_at(now_ms)

    def _end_of_tier(self, due_ms: int, at_ms: int) -> None:
        policy = self.program.tier_policy
        ended_ms = due_ms - policy.grace_days * DAY - 1
        if policy.window is Window.ROLLING:
            reached, until_ms = self.qualifying_at(due_ms), self._tier_lasts(due_ms)
        else:
            reached, until_ms = max(self.qualifying_at(ended_ms), self.qualifying_at(due_ms)), self._tier_lasts(ended_ms)
        rank, has = self._rank(self._tier_of(reached).name), self._rank(self.tier)
        if rank < has:
            rank = {Demotion.NEVER: has, Demotion.ONE_STEP: has - 1, Demotion.BALANCE_BASED: rank}[policy.demotion]
        self._set_tier(self.program.tiers[rank], until_ms, at_ms)

    # Vouchers.

    def _issue(self, reward_code: str, issued_by: str, points: int, at_ms: int) -> None:
        reward = self.program.rewards.get(reward_code)
        days = reward.valid_days if reward else None
        self.vouchers.append(Voucher(issued_by, points, None if days is None else at_ms + days * DAY))

    def _voucher(self, code: str | None) -> Voucher | None:
        return next((voucher for voucher in self.vouchers if voucher.code == code), None)

    # Decisions.

    def answer(self, command: Command, now_ms: int) -> set[str]:
        """The results, or codes of refusals, that are right for a command that was not decided before; and what comes of it."""
        now_ms = max(now_ms, self.clock_ms)
        if self.enrolled:
            self.catch_up(now_ms)
        if isinstance(command, Transaction):
            deed = Deed(command.kind.value, now_ms, applied=False)
            answers = self._transact(command, deed, now_ms)
            deed.applied = answers == {"APPLIED"}
            self.deeds[command.transaction_id] = deed
        elif isinstance(command, Enrolment):
            answers = {self._enrol(command, now_ms)}
        elif isinstance(command, OfferActivation):
            answers = {self._activate_offer(command)}
        elif isinstance(command, ProfileChange):
            answers = {self._change(command, now_ms)}
        else:
            answers = {self._operate(command, now_ms)}
        self.catch_up(now_ms)
        return answers

    def is_open_name(self, transaction_id: str) -> bool:
        """Older than answers are remembered, but not gone: its id cannot be used again."""
        return transaction_id in self.holds or (transaction_id in self.lots and self.lots[transaction_id].is_open)

    def _enrol(self, command: Enrolment, now_ms: int) -> str:
        if not self.enrolled:
            self.enrolled_at_ms, self.tier = command.occurred_at_ms, self.program.tiers[0].name
            self._note(command, [*command.attributes, "status"])
            self.attributes = dict(command.attributes)
            return "APPLIED"
        if self.status is not MemberStatus.LEFT and not self._overtakes(command):
            return "MEMBER_ALREADY_ENROLLED"
        if not self._is_news(command, "status", 0, self._status_rank()):
            return "SUPERSEDED"
        return self._apply(command, MemberStatus.ACTIVE, None, now_ms)

    def _overtakes(self, command: Enrolment) -> bool:
        """A newer word on the status than the last one, of the same system."""
        source, last = self.last_words.get("status", ("", None))
        version = command.source_version
        return source == command.source_system and last is not None and version is not None and version > last

    def _activate_offer(self, command: OfferActivation) -> str:
        offer = self.program.offers.get(command.offer_id)
        if offer is None:
            return "OFFER_UNKNOWN"
        if self.barred:
            return self.barred
        if not _runs(offer, command.occurred_at_ms):
            return "OFFER_NOT_RUNNING"
        if offer.tiers and self.tier not in offer.tiers:
            return "OFFER_NOT_FOR_MEMBER"
        period = (offer.offer_id, _period(offer.period, command.occurred_at_ms))
        if period in self.activations:
            return "OFFER_ALREADY_ACTIVE"
        self.activations[period] = []
        if offer.reward_code:
            self._issue(offer.reward_code, f"offer:{offer.offer_id}", 0, command.occurred_at_ms)
        return "APPLIED"

    def _change(self, command: ProfileChange, now_ms: int) -> str:
        return self._apply(command, command.status, command.status_from_ms, now_ms)

    def _apply(self, command: Enrolment | ProfileChange, status: MemberStatus | None, from_ms: int | None, now_ms: int) -> str:
        """Part by part: what is no news of one part may come with news of another."""
        news = [name for name, value in command.attributes.items() if self._is_news(command, name, value or "", self.attributes.get(name, ""))]
        if status is not None and self._is_news(command, "status", RANK[status], self._status_rank()):
            news.append("status")
        if not news:
            return "SUPERSEDED"
        self._note(command, news)
        for name in news:
            value = command.attributes.get(name)
            if value is not None:
                self.attributes[name] = value
            elif name in command.attributes:
                self.attributes.pop(name, None)
        if status is not None and "status" in news:
            if from_ms is not None and from_ms > now_ms:
                self.scheduled = (status, from_ms)
            else:
                self._set_status(status, now_ms)
        return "APPLIED"

    def _status_rank(self) -> int:
        return RANK[self.scheduled[0] if self.scheduled else self.status]

    def _is_news(self, command: Enrolment | ProfileChange, name: str, said: int | str, current: int | str) -> bool:
        """Of one version the greater value counts, so that every order comes to the same."""
        version = command.source_version
        if version is None or name not in self.last_words:
            return True
        source, last = self.last_words[name]
        if source != command.source_system:
            return version > self.newest.get(command.source_system, -1)
        return last is None or (version, said) > (last, current)  # type: ignore[operator]

    def _note(self, command: Enrolment | ProfileChange, names: list[str]) -> None:
        source, version = command.source_system, command.source_version
        for name in names:
            before = self.last_words.get(name, ("", None))
            self.last_words[name] = (source, before[1] if version is None and before[0] == source else version)
        if version is not None:
            self.newest[source] = max(version, self.newest.get(source, version))

    def _operate(self, command: MemberOperation, now_ms: int) -> str:
        tier = next((tier for tier in self.program.tiers if tier.name == command.tier), None)
        if tier is None:
            return "TIER_UNKNOWN"
        self._set_tier(tier, command.valid_until_ms or self._tier_lasts(now_ms), now_ms, gift=False)
        return "APPLIED"

    def _transact(self, command: Transaction, deed: Deed, now_ms: int) -> set[str]:
        if command.kind.value in ("CAPTURE", "VOID"):
            return self._end_hold(command, deed, now_ms)
        does = {
            "EARN": self._earn, "ADJUST": self._adjust, "REDEEM": self._redeem, "HOLD": self._hold, "ACTIVATE": self._activate, "REVERSE": self._reverse,
            "REDEEM_VOUCHER": self._use_voucher, "CANCEL_VOUCHER": self._cancel_voucher,
        }  # fmt: skip
        return {does[command.kind.value](command, deed, now_ms)}

    def _earn(self, command: Transaction, deed: Deed, now_ms: int) -> str:
        if command.points is None and command.amount_minor is not None and command.currency not in self.program.points_per_unit:
            return "CURRENCY_NOT_EARNING"
        if self.barred and self.program.earn_while_suspended is EarnWhileSuspended.REFUSE:
            return self.barred  # Before anything is worked out: a refused sale uses up no cap.
        base = self._computed(command) if command.points is None else command.points
        points = base + self._bonuses(command, base)
        if points:
            lot = self._new_lot(command, points, deed)
            lot.by_earn = True
            self._stay_alive([*self.open_lots], command.occurred_at_ms)
            self._pay_debt(now_ms)
            self.qualified.append((points, command.occurred_at_ms))
            self._promote(now_ms, command.occurred_at_ms)
        return "APPLIED"

    def _computed(self, command: Transaction) -> int:
        exact = Fraction(0)
        if command.amount_minor is not None:
            assert command.currency is not None
            exact += Fraction(command.amount_minor, 10 ** DIGITS[command.currency]) * self.program.points_per_unit[command.currency]
        exact += (command.nights or 0) * self.program.points_per_night
        exact *= Fraction(self.program.tiers[self._rank(self.tier)].earn_percent, 100)
        given = self._round(exact)
        for rule in self.program.rules:  # Only such as give some percent more, and have a cap.
            if rule.categories and command.category not in rule.categories:
                continue
            exact *= 1 + Fraction(rule.percent, 100)
            used = self.given_by_rules.setdefault((rule.rule_id, _period(rule.cap_period, command.occurred_at_ms)), [])
            more = self._round(exact) - given
            if rule.cap_points is not None and sum(used) + more > rule.cap_points:
                more = rule.cap_points - sum(used)
                exact = Fraction(given + more)
            used.append(more)
            given += more
        return given

    def _round(self, exact: Fraction) -> int:
        if self.program.rounding is Rounding.CEILING:
            return math.ceil(exact)
        return math.floor(exact if self.program.rounding is Rounding.FLOOR else exact + Fraction(1, 2))

    def _bonuses(self, command: Transaction, base: int) -> int:
        total = 0
        for offer in self.program.offers.values():
            given = self.activations.get((offer.offer_id, _period(offer.period, command.occurred_at_ms)))
            if given is None or not _runs(offer, command.occurred_at_ms) or (offer.categories and command.category not in offer.categories):
                continue
            bonus = math.floor(Fraction(base * offer.bonus_percent, 100)) + offer.bonus_points
            if offer.cap_points is not None:
                bonus = min(bonus, offer.cap_points - sum(given))
            if bonus > 0 and (offer.uses_max is None or len(given) < offer.uses_max):
                given.append(bonus)
                total += bonus
        return total

    def _new_lot(self, command: Transaction, points: int, deed: Deed) -> Lot:
        at_ms, own = command.occurred_at_ms, command.expires_at_ms
        lot = Lot(command.transaction_id, at_ms, self._expiry(at_ms) if own is None else own)
        lot.kept_by_activity = own is None and self.program.expiry.rule is ExpiryRule.INACTIVITY
        if command.kind.value == "EARN":
            lot.available_from_ms = command.available_from_ms
            if command.available_from_ms is None and not command.pending and self.program.pending_days:
                lot.available_from_ms = at_ms + self.program.pending_days * DAY
            lot.pending = bool(command.pending) or lot.available_from_ms is not None
            if not lot.pending and self.barred and self.program.earn_while_suspended is EarnWhileSuspended.PARK:
                lot.pending = lot.parked = True
        lot.move("outside", "remaining", points)
        self.lots[lot.lot_id] = lot
        deed.made_lot = True
        return lot

    def _redeem(self, command: Transaction, deed: Deed, now_ms: int) -> str:
        assert command.points is not None
        reward = self.program.rewards.get(command.reward_code or "")
        if self.barred:
            return self.barred
        if reward is not None and reward.points not in (None, command.points):
            return "REWARD_PRICE_DIFFERS"
        if command.points > self.available:
            return "INSUFFICIENT_POINTS"
        lots = self.open_lots
        deed.parts = self._take(command.points, "spent", now_ms)
        self._stay_alive(lots, command.occurred_at_ms)
        if command.reward_code:
            self._issue(command.reward_code, command.transaction_id, command.points, command.occurred_at_ms)
        return "APPLIED"

    def _adjust(self, command: Transaction, deed: Deed, now_ms: int) -> str:
        assert command.points is not None
        if command.points > 0:
            self._new_lot(command, command.points, deed)
            self._stay_alive(self.open_lots, self.last_activity_ms)
            self._pay_debt(now_ms)
        elif -command.points > self.available:
            return "INSUFFICIENT_POINTS"
        else:
            deed.parts = self._take(-command.points, "spent", now_ms)
        return "APPLIED"

    def _hold(self, command: Transaction, deed: Deed, now_ms: int) -> str:
        assert command.points is not None
        if self.barred:
            return self.barred
        if command.points > self.available:
            return "INSUFFICIENT_POINTS"
        ends_ms = command.expires_at_ms
        if ends_ms is None and self.program.hold_minutes is not None:
            ends_ms = now_ms + self.program.hold_minutes * MINUTE
        self.holds[command.transaction_id] = Hold(command.transaction_id, self._take(command.points, "held", now_ms), ends_ms)
        return "APPLIED"

    def _end_hold(self, command: Transaction, deed: Deed, now_ms: int) -> set[str]:
        capture, hold_id = command.kind.value == "CAPTURE", command.related_transaction_id or ""
        hold, placed = self.holds.get(hold_id), self.deeds.get(hold_id)
        if hold is None and (placed is None or placed.kind != "HOLD" or not placed.applied):
            return {"HOLD_NOT_FOUND"}
        if hold is None and not self._remembered(hold_id, now_ms):
            return {"HOLD_NOT_FOUND"}
        if capture and self.barred and not self.program.capture_while_suspended:
            return {self.barred}
        if hold is None:
            assert placed is not None and placed.hold_ended_by is not None
            return {placed.hold_ended_by}
        if not capture:
            self._let_go(hold, now_ms, "HOLD_ALREADY_VOIDED")
            return {"APPLIED"}
        whole = sum(points for _, points, _ in hold.parts)
        wanted = whole if command.points is None else command.points
        if wanted > whole:
            return {"CAPTURE_TOO_LARGE"}
        self._capture(hold, wanted, deed, command.occurred_at_ms, now_ms)
        return {"APPLIED"}

    def _capture(self, hold: Hold, wanted: int, deed: Deed, occurred_ms: int, now_ms: int) -> None:
        lots, rest, owed, asked_of = self.open_lots, [], {True: 0, False: 0}, []
        for lot_id, points, until_ms in hold.parts:
            mine = min(wanted, points)
            wanted -= mine
            if points > mine:
                rest.append((lot_id, points - mine, until_ms))
            if mine:
                lot = self.lots[lot_id]
                lot.move("held", "spent", mine)
                asked = min(mine, lot.claw_later)
                lot.claw_later, lot.asked_back = lot.claw_later - asked, lot.asked_back + asked
                owed[lot.by_earn] += asked
                asked_of.append((lot, asked))
                deed.parts.append((lot_id, mine, until_ms))
        self._let_go(hold, now_ms, "HOLD_ALREADY_CAPTURED", rest)
        missing = {True: self._recover(owed[True], self.program.reversal, now_ms), False: self._recover(owed[False], ReversalPolicy.WITHIN_BALANCE, now_ms)}
        for lot, asked in asked_of:
            mine = min(asked, missing[lot.by_earn])
            missing[lot.by_earn] -= mine
            lot.owed += mine
        self._stay_alive(lots, occurred_ms)

    def _activate(self, command: Transaction, deed: Deed, now_ms: int) -> str:
        lot_id = command.related_transaction_id or ""
        lot = self.lots.get(lot_id)
        if lot is not None and lot.is_open and lot.pending:
            if lot.parked and self.barred:
                return self.barred
            lot.pending, lot.parked, lot.available_from_ms = False, False, None
            self._pay_debt(now_ms)
            return "APPLIED"
        return "NOT_PENDING" if self._known(lot_id, now_ms) or self._remembered(lot_id, now_ms) else "TRANSACTION_NOT_FOUND"

    def _reverse(self, command: Transaction, deed: Deed, now_ms: int) -> str:
        original_id = command.reverses_transaction_id or ""
        original = self._remembered(original_id, now_ms)
        if original is None:
            return "TRANSACTION_NOT_FOUND"
        spent = sum(points for _, points, _ in original.parts)
        if not original.applied or original.kind not in ("EARN", "ADJUST", "REDEEM", "CAPTURE") or not (spent or original.made_lot):
            return "TRANSACTION_NOT_REVERSIBLE"
        voucher = next((voucher for voucher in self.vouchers if voucher.issued_by == original_id), None)
        if voucher is not None and voucher.state == "REDEEMED":
            return "VOUCHER_ALREADY_REDEEMED"
        left = (spent or self.lots[original_id].points) - original.reversed_points
        wanted = left if command.points is None else command.points
        if left == 0:
            return "ALREADY_REVERSED"
        if wanted > left:
            return "REVERSAL_TOO_LARGE"
        if original.parts:
            self._refund(original, wanted, command.transaction_id, now_ms)
            if voucher is not None and voucher.state == "ISSUED":
                voucher.points -= wanted
                voucher.state = "CANCELLED" if wanted == left else voucher.state
        else:
            original.reversed_points += wanted
            self._take_back(self.lots[original_id], original.kind, wanted, now_ms)
        return "APPLIED"

    def _take_back(self, lot: Lot, kind: str, wanted: int, now_ms: int) -> None:
        policy = self.program.reversal if kind == "EARN" else ReversalPolicy.WITHIN_BALANCE
        stays = policy is ReversalPolicy.ONLY_PENDING and not lot.pending
        remaining = min(wanted, lot.of("remaining"))
        spent = min(wanted - remaining, lot.of("spent") + lot.of("settled") - lot.asked_back)
        held = min(wanted - remaining - spent, lot.of("held") - lot.claw_later)
        if not stays:
            lot.move("remaining", "clawed", remaining)
            lot.claw_later += held
        lot.asked_back += spent
        lot.owed += self._recover(spent, policy, now_ms)
        if kind == "EARN":
            before = self._reach(now_ms)
            self.qualified.append((-wanted, lot.earned_at_ms))
            threshold = self.program.tiers[self._rank(self.tier)].threshold_points
            if self.program.tier_policy.demote_on_reversal and self._reach(now_ms) < threshold <= before:
                self._set_tier(self._tier_of(self._reach(now_ms)), self.tier_until_ms, now_ms)

    def _refund(self, original: Deed, wanted: int, command_id: str, now_ms: int) -> None:
        """The last to expire first. Point by point, so that what was given back is not given again."""
        one_by_one = [part for part in reversed(original.parts) for _ in range(part[1])]
        due = one_by_one[original.reversed_points : original.reversed_points + wanted]
        original.reversed_points += wanted
        self._restore([(lot_id, due.count((lot_id, n, until)), until) for lot_id, n, until in dict.fromkeys(due)], command_id, now_ms)

    def _use_voucher(self, command: Transaction, deed: Deed, now_ms: int) -> str:
        voucher = self._voucher(command.voucher_code)
        if voucher is None:
            return "VOUCHER_NOT_FOUND"
        if self.barred:
            return self.barred
        return self._close(voucher, "REDEEMED")

    def _close(self, voucher: Voucher, state: str) -> str:
        if voucher.state != "ISSUED":
            return "VOUCHER_EXPIRED" if voucher.state == "EXPIRED" else f"VOUCHER_ALREADY_{voucher.state}"
        voucher.state = state
        return "APPLIED"

    def _cancel_voucher(self, command: Transaction, deed: Deed, now_ms: int) -> str:
        voucher = self._voucher(command.voucher_code)
        if voucher is None:
            return "VOUCHER_NOT_FOUND"
        answer = self._close(voucher, "CANCELLED")
        if answer == "APPLIED" and voucher.points:
            if original := self._remembered(voucher.issued_by, now_ms):
                self._refund(original, voucher.points, command.transaction_id, now_ms)
            else:
                self._restore([("", voucher.points, None)], command.transaction_id, now_ms)
        return answer


def _soonest_first(lot: Lot) -> tuple[float, int, str]:
    return (math.inf if lot.expires_at_ms is None else lot.expires_at_ms, lot.earned_at_ms, lot.lot_id)


def _runs(offer: Offer, at_ms: int) -> bool:
    return offer.starts_at_ms <= at_ms < (math.inf if offer.ends_at_ms is None else offer.ends_at_ms)


def _period(period: Period, at_ms: int) -> int:
    moment = calendar(at_ms)
    return {
        Period.ONCE: 0, Period.DAY: at_ms // DAY * DAY, Period.MONTH: instant(moment.year, moment.month), Period.YEAR: instant(moment.year),
    }[period]  # fmt: skip
