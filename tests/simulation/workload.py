"""What clients send: commands of every kind to a few dozen members, most of them sensible, and everything that clients get wrong."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.contract import Command, member_key
from schemas.records import (
    Account,
    Enrolment,
    LineItem,
    MemberOperation,
    MemberOperationKind,
    MemberStatus,
    OfferActivation,
    ProfileChange,
    Transaction,
    TransactionKind,
)
from tests.simulation import rules

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 24 * 3_600_000
MEMBERS = 12  # Of each programme, at a time.
COMMANDS_PER_GENERATION = 300
SOURCES = ("crm", "pms", "hr")

STATUSES = (MemberStatus.SUSPENDED, MemberStatus.LEFT, *[MemberStatus.ACTIVE] * 3)


@dataclass
class Memory:
    """What a member's clients remember of what they sent."""

    sent: int = 0
    earns: list[str] = field(default_factory=list)
    spends: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)
    version: int = 0


class Workload:
    """`command()` is the next one. `account_of(key)` and `codes` are what clients can see; everything else is chance."""

    def __init__(self, rng: random.Random, account_of: Callable[[bytes], Account | None], codes: list[tuple[bytes, str]]) -> None:
        self._rng = rng
        self._account_of = account_of
        self._codes = codes
        self._memory: defaultdict[tuple[str, str], Memory] = defaultdict(Memory)
        self._texts = 0
        self._enrolled: set[tuple[str, str]] = set()
        self.sent: list[Command] = []
        self._kinds = {
            self._earn: 24, self._redeem: 12, self._adjust: 5, self._reverse: 12, self._hold: 8, self._end_hold: 8, self._activate_points: 3,
            self._transfer: 7, self._voucher: 6, self._offer: 6, self._profile: 8, self._merge: 1.2, self._erase: 0.5, self._pool: 1.5,
            self._set_tier: 1.5, self._enrol: 2,
        }  # fmt: skip

    def command(self, now_ms: int) -> Command:
        """A new command, or one of before: as it was, or another under its id."""
        rng = self._rng
        if self.sent and rng.random() < 0.14:
            command = rng.choice(self.sent[-40:] if rng.random() < 0.7 else self.sent)
            if rng.random() < 0.3:
                return replace(command, occurred_at_ms=now_ms)  # A sender that stamps every attempt anew.
            return _altered(command) if rng.random() < 0.15 else command
        program_id = rng.choice(list(rules.FIRST))
        member_id = self._member(0.3)
        memory = self._memory[program_id, member_id]
        memory.sent += 1
        occurred_at_ms = now_ms - int(rng.choice((0, 0, 0, rng.random() * HOUR_MS, rng.random() * 3 * DAY_MS, -rng.random() * HOUR_MS)))
        if rng.random() < 0.02:
            occurred_at_ms -= int(rng.random() * 90 * DAY_MS)
        about = {"program_id": program_id, "member_id": member_id, "source_system": rng.choice(SOURCES), "occurred_at_ms": occurred_at_ms}
        if (program_id, member_id) not in self._enrolled and rng.random() < 0.5:
            make: Callable[..., Command] = self._enrol
        else:
            make = rng.choices(list(self._kinds), list(self._kinds.values()))[0]  # type: ignore[arg-type]
        command = make(f"c{memory.sent}", about, memory, now_ms)
        self.sent.append(command)
        return command

    # One kind each.

    def _enrol(self, name: str, about: dict[str, Any], _: Memory, __: int) -> Command:
        self._enrolled.add((about["program_id"], about["member_id"]))
        return Enrolment(**about, event_id=name, attributes=self._attributes(), segments=self._segments() or ())

    def _earn(self, name: str, about: dict[str, Any], memory: Memory, now_ms: int) -> Command:
        rng = self._rng
        memory.earns.append(name)
        more: dict[str, Any] = {"category": rng.choice(rules.CATEGORIES)}
        if rng.random() < 0.4:
            more["points"] = rng.choice((1, 7, 100, rng.randint(1, 900), rng.randint(1, 4_000)))
        else:
            more |= {"currency": rng.choice(rules.CURRENCIES), "amount_minor": rng.choice((0, 1, rng.randint(1, 99_999)))}
            if rng.random() < 0.3:
                more["line_items"] = tuple(
                    LineItem(category=rng.choice(rules.CATEGORIES), amount_minor=rng.randint(-900, 9_000)) for _ in range(rng.randint(1, 3))
                )
                if rng.random() < 0.5:
                    more["nights"] = rng.randint(1, 5)
        if rng.random() < 0.1:
            more["pending"] = True
        if rng.random() < 0.1:
            more["available_from_ms"] = now_ms + int(rng.uniform(-1, 20) * DAY_MS)
        if rng.random() < 0.1:
            more["expires_at_ms"] = now_ms + int(rng.choice((rng.uniform(-2, 2), rng.uniform(0, 60))) * DAY_MS)
        return Transaction(**about, transaction_id=name, kind=TransactionKind.EARN, **more)

    def _some(self, about: dict[str, Any]) -> int:
        """Points that the member may have."""
        account = self._account_of(member_key(about["program_id"], about["member_id"]))
        points = account.available_points if account is not None else 0
        return self._rng.choice((max(1, points), max(1, points // 2), max(1, points // 3), points + 1, self._rng.randint(1, 300)))

    def _redeem(self, name: str, about: dict[str, Any], memory: Memory, _: int) -> Command:
        memory.spends.append(name)
        reward = self._rng.choice((None, None, "NIGHT", "LOUNGE", "GONE"))
        points = 400 if reward == "NIGHT" and self._rng.random() < 0.8 else self._some(about)
        return Transaction(**about, transaction_id=name, kind=TransactionKind.REDEEM, points=points, reward_code=reward)

    def _adjust(self, name: str, about: dict[str, Any], memory: Memory, now_ms: int) -> Command:
        rng = self._rng
        points = self._some(about) * rng.choice((1, -1))
        (memory.earns if points > 0 else memory.spends).append(name)
        expires_at_ms = now_ms + int(rng.random() * 30 * DAY_MS) if rng.random() < 0.2 else None
        return Transaction(
            **about, transaction_id=name, kind=TransactionKind.ADJUST, points=points, expires_at_ms=expires_at_ms, reason="goodwill", actor="agent-7"
        )

    def _reverse(self, name: str, about: dict[str, Any], memory: Memory, _: int) -> Command:
        points = self._rng.randint(1, 60) if self._rng.random() < 0.4 else None
        names = memory.earns if self._rng.random() < 0.5 else memory.spends
        return Transaction(**about, transaction_id=name, kind=TransactionKind.REVERSE, points=points, reverses_transaction_id=self._recent(names))

    def _hold(self, name: str, about: dict[str, Any], memory: Memory, now_ms: int) -> Command:
        rng = self._rng
        memory.holds.append(name)
        expires_at_ms = now_ms + int(rng.uniform(-0.1, 6) * DAY_MS) if rng.random() < 0.4 else None
        return Transaction(**about, transaction_id=name, kind=TransactionKind.HOLD, points=self._some(about), expires_at_ms=expires_at_ms)

    def _end_hold(self, name: str, about: dict[str, Any], memory: Memory, _: int) -> Command:
        hold_id = self._recent(memory.holds)
        if self._rng.random() < 0.5:
            return Transaction(**about, transaction_id=name, kind=TransactionKind.VOID, related_transaction_id=hold_id)
        memory.spends.append(name)
        points = self._rng.randint(1, 80) if self._rng.random() < 0.4 else None
        return Transaction(**about, transaction_id=name, kind=TransactionKind.CAPTURE, related_transaction_id=hold_id, points=points)

    def _activate_points(self, name: str, about: dict[str, Any], memory: Memory, _: int) -> Command:
        return Transaction(**about, transaction_id=name, kind=TransactionKind.ACTIVATE, related_transaction_id=self._recent(memory.earns))

    def _transfer(self, name: str, about: dict[str, Any], _: Memory, __: int) -> Command:
        return Transaction(**about, transaction_id=name, kind=TransactionKind.TRANSFER, points=self._some(about), to_member_id=self._other())

    def _voucher(self, name: str, about: dict[str, Any], _: Memory, __: int) -> Command:
        rng = self._rng
        kind = rng.choice((TransactionKind.REDEEM_VOUCHER, TransactionKind.CANCEL_VOUCHER))
        mine = [code for key, code in self._codes if key == member_key(about["program_id"], about["member_id"])]
        code = rng.choice(mine[-4:]) if mine and rng.random() < 0.9 else rng.choice(self._codes)[1] if self._codes else "no-such-code"
        return Transaction(**about, transaction_id=name, kind=kind, voucher_code=code)

    def _offer(self, name: str, about: dict[str, Any], _: Memory, __: int) -> Command:
        return OfferActivation(**about, event_id=name, offer_id=self._rng.choice((*rules.OFFERS, "scarce", "scarce", "none")))

    def _profile(self, name: str, about: dict[str, Any], memory: Memory, now_ms: int) -> Command:
        rng = self._rng
        memory.version += 1
        more: dict[str, Any] = {}
        if rng.random() < 0.6:
            more["attributes"] = {**self._attributes(), **({"phone": None} if rng.random() < 0.3 else {})}
        if rng.random() < 0.4:
            more["segments"] = self._segments()
        if rng.random() < 0.6 or not (more.get("attributes") or more.get("segments") is not None):
            more |= {"status": rng.choice(STATUSES), "status_reason": "season"}
            if rng.random() < 0.4:
                more["status_from_ms"] = now_ms + int(rng.uniform(-1, 20) * DAY_MS)
        version = None if rng.random() < 0.3 else memory.version + rng.choice((0, 0, -2, 3))
        return ProfileChange(**about, event_id=name, source_version=version, **more)

    def _operation(self, name: str, about: dict[str, Any], kind: MemberOperationKind, **more: Any) -> Command:
        return MemberOperation(**about, event_id=name, kind=kind, reason="asked for", actor="agent-7", **more)

    def _merge(self, name: str, about: dict[str, Any], _: Memory, __: int) -> Command:
        return self._operation(name, about, MemberOperationKind.MERGE, target_member_id=self._other())

    def _erase(self, name: str, about: dict[str, Any], _: Memory, __: int) -> Command:
        return self._operation(name, about, MemberOperationKind.ERASE)

    def _pool(self, name: str, about: dict[str, Any], _: Memory, __: int) -> Command:
        if self._rng.random() < 0.5:
            return self._operation(name, about, MemberOperationKind.LEAVE_POOL)
        return self._operation(name, about, MemberOperationKind.JOIN_POOL, target_member_id=self._other())

    def _set_tier(self, name: str, about: dict[str, Any], _: Memory, now_ms: int) -> Command:
        until_ms = now_ms + int(self._rng.uniform(-1, 50) * DAY_MS) if self._rng.random() < 0.5 else None
        tier = self._rng.choice(("BLUE", "SILVER", "GOLD", "ONYX", "TIN"))
        return self._operation(name, about, MemberOperationKind.SET_TIER, tier=tier, valid_until_ms=until_ms)

    # Parts.

    def _recent(self, names: list[str]) -> str:
        rng = self._rng
        if not names or rng.random() < 0.05:
            return f"c{rng.randint(1, 60)}"
        return rng.choice(names[-5:] if rng.random() < 0.8 else names)

    def _other(self) -> str:
        rng = self._rng
        return rng.choice(("nobody", "later")) if rng.random() < 0.07 else self._member(0.25)

    def _member(self, steepness: float) -> str:
        """Some are busier than others, and new ones come while the merged and the erased fall silent."""
        return f"m{len(self.sent) // COMMANDS_PER_GENERATION + min(int(self._rng.expovariate(steepness)), MEMBERS - 1)}"

    def _segments(self) -> tuple[str, ...]:
        return tuple(segment for segment in rules.SEGMENTS if self._rng.random() < 0.3)

    def _attributes(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for attribute in ("name", "phone", "email"):
            if self._rng.random() < 0.5:
                self._texts += 1
                found[attribute] = f"pii{self._texts}x"
        return found


def _altered(command: Command) -> Command:
    """Another command under the same id."""
    if isinstance(command, Transaction):
        return replace(command, property_id="elsewhere")
    if isinstance(command, OfferActivation):
        return replace(command, offer_id="spring" if command.offer_id != "spring" else "double")
    if isinstance(command, MemberOperation):
        return replace(command, reason="for another reason")
    return replace(command, segments=("press", "other"))
