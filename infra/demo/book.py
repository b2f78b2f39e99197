"""A second opinion: what every account must be, reckoned in plain Python from what the demo has sent. Shares no code with the domain.

It reads the programmes' rules from the same configuration file as the pipeline, and relies on nothing else of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import inf
from typing import Any


@dataclass(slots=True)
class Lot:
    """Points that came in together and expire together."""

    expires_at_ms: float
    """inf: when the programme's rule says, years from now."""
    total: int
    remaining: int
    spent: int = 0
    reversed: int = 0
    """How many of the spent ones a reversal has asked for."""
    qualifies: bool = False
    asked_back: int = 0
    """How many a reversal has asked for in all."""
    parked: bool = False
    """Earned while the member was suspended: not to be spent until that ends."""


Parts = list[tuple[Lot, int]]
"""From which lots how many points were taken."""


@dataclass(slots=True)
class Purchase:
    """A redemption that bought a voucher."""

    parts: Parts
    voucher: str = "ISSUED"


@dataclass(slots=True)
class Page:
    """One member."""

    tier: str
    qualifying: int = 0
    suspended: bool = False
    merged_into: str = ""
    lots: dict[str, Lot] = field(default_factory=dict)
    """By what brought them, in the order in which they came."""
    holds: dict[str, Parts] = field(default_factory=dict)
    purchases: dict[str, Purchase] = field(default_factory=dict)
    offers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How often each has given points, and how many."""
    events: int = 1
    """How many events the receivers must have heard of; the enrolment is the first."""
    entries: int = 0
    """How many lines the ledger must have."""
    captures: int = 0
    """How many of them are about points that were set aside or parked, and not about those that can be spent."""

    @property
    def points(self) -> int:
        """What can be spent."""
        return sum(lot.remaining for lot in self.lots.values() if not lot.parked)

    @property
    def held(self) -> int:
        return sum(points for parts in self.holds.values() for _, points in parts)

    @property
    def balance(self) -> tuple[int, int, str, int]:
        """What can be read in several places: points, qualifying points, tier, sequence of the last event."""
        return self.points, self.qualifying, self.tier, self.events

    def note(self, *moves: int) -> None:
        """One event, and a line in the ledger for each kind of move. None for 0: nothing has moved, for example if it was refused."""
        self.events += 1
        self.entries += sum(points != 0 for points in moves)

    def put(self, name: str, points: int, expires_at_ms: float = inf, *, qualifies: bool = False, parked: bool = False) -> None:
        name = name or f"unnamed {len(self.lots)}"
        self.lots[name] = Lot(expires_at_ms=expires_at_ms, total=points, remaining=points, qualifies=qualifies, parked=parked)

    def take(self, points: int) -> Parts:
        """Whatever expires first is taken first, then whatever came first."""
        parts = []
        for lot in sorted((lot for lot in self.lots.values() if not lot.parked), key=lambda lot: lot.expires_at_ms):
            mine = min(points, lot.remaining)
            lot.remaining -= mine
            points -= mine
            if mine:
                parts.append((lot, mine))
        return parts

    def spend(self, points: int) -> Parts:
        parts = self.take(points)
        for lot, mine in parts:
            lot.spent += mine
        return parts


class Book:
    """Members are named `programme/member`, as everywhere in the demo. What is not allowed returns False, and counts as a refusal."""

    def __init__(self, programs: Mapping[str, Any]) -> None:
        """`programs`: the table of that name in the configuration file."""
        self._programs = programs
        self._reserved: dict[tuple[str, str], int] = {}
        """Of the budget of an offer, by programme and offer."""
        self.pages: dict[str, Page] = {}
        self.expired = 0

    @property
    def events(self) -> int:
        return sum(page.events for page in self.pages.values())

    @property
    def entries(self) -> int:
        return sum(page.entries for page in self.pages.values())

    @property
    def entries_of_spendable(self) -> int:
        """Those about points that can be spent."""
        return sum(page.entries - page.captures for page in self.pages.values())

    @property
    def points(self) -> int:
        return sum(page.points for page in self.pages.values())

    @property
    def balances(self) -> dict[str, tuple[int, int, str, int]]:
        return {member: page.balance for member, page in self.pages.items()}

    def points_of(self, program_id: str) -> int:
        """What all members of a programme can spend."""
        return sum(page.points for member, page in self.pages.items() if member.partition("/")[0] == program_id)

    # Joining.

    def enrol(self, member: str) -> None:
        self.pages[member] = Page(tier=self._tiers(member)[0]["name"])

    def change_profile(self, member: str) -> None:
        """An event, and nothing of it in the ledger; a refused change is one as well."""
        self.pages[member].note()

    def suspend(self, member: str) -> None:
        self.pages[member].suspended = True
        self.pages[member].note()

    def to_next_tier(self, member: str) -> tuple[str, int]:
        """The next tier, and how many points are missing."""
        page = self.pages[member]
        above = [tier for tier in self._tiers(member) if tier["threshold_points"] > page.qualifying]
        return above[0]["name"], above[0]["threshold_points"] - page.qualifying

    # Points come in.

    def stay(self, member: str, amount: Decimal, currency: str, nights: int, category: str = "room", name: str = "") -> int:
        """A stay is paid for; the points that it gives, bonus included."""
        page, program = self._page(member), self._program(member)
        rules = program["earn"]
        percent = next(tier.get("earn_percent", 100) for tier in program["tiers"] if tier["name"] == page.tier)
        base = amount * rules["points_per_unit"][currency] + nights * rules.get("points_per_night", 0)
        return self._earn(member, int(base * percent / 100), category, name)

    def earn(self, member: str, points: int, name: str = "") -> None:
        self._earn(member, points, None, name)

    def adjust(self, member: str, points: int, name: str = "", expires_at_ms: float = inf) -> bool:
        page = self._page(member)
        if page.points + points < 0:
            page.note()
            return False
        if points > 0:
            page.put(name, points, expires_at_ms)
        else:
            page.spend(-points)
        page.note(points)
        return True

    def activate(self, member: str, name: str) -> bool:
        page, program = self._page(member), self._program(member)
        page.note()
        offer, key = program["offers"][name], (member.partition("/")[0], name)
        if page.suspended or name in page.offers:
            return False
        if "budget_points" in offer:  # Each activation reserves all that it can give.
            reserved = self._reserved.get(key, 0) + offer["cap_points"]
            if reserved > offer["budget_points"]:
                return False
            self._reserved[key] = reserved
        page.offers[name] = (0, 0)
        return True

    # Points go out.

    def redeem(self, member: str, points: int, *, reward: bool = False, name: str = "") -> bool:
        page = self._page(member)
        if page.suspended or points > page.points:
            page.note()
            return False
        parts = page.spend(points)
        page.note(points)
        if reward:
            page.purchases[name] = Purchase(parts)
            page.note()  # The voucher.
        return True

    def use_voucher(self, member: str, purchase: str) -> bool:
        page = self._page(member)
        page.note()
        bought = page.purchases[purchase]
        applied = not page.suspended and bought.voucher == "ISSUED"
        bought.voucher = "REDEEMED" if applied else bought.voucher
        return applied

    def expire(self, member: str, at_ms: int) -> int:
        """The time of the points that expire at that instant is over; how many are lost."""
        page, lost = self.pages[member], 0
        for lot in page.lots.values():
            if lot.expires_at_ms == at_ms:
                lost += lot.remaining
                lot.remaining = 0
        self.expired += lost
        if lost:
            page.note(lost)
        return lost

    # Points are set aside.

    def hold(self, member: str, points: int, name: str) -> bool:
        page = self._page(member)
        if page.suspended or points > page.points:
            page.note()
            return False
        page.holds[name] = page.take(points)
        page.note(points)
        return True

    def capture(self, member: str, name: str, points: int) -> bool:
        """The rest comes back."""
        page = self._page(member)
        held = sum(mine for _, mine in page.holds.get(name, ()))
        if not 0 < points <= held:
            page.note()
            return False
        left = points
        for lot, mine in page.holds.pop(name):
            spent = min(left, mine)
            left -= spent
            lot.spent += spent
            lot.remaining += mine - spent
        page.note(points, held - points)
        page.captures += 1
        return True

    def let_go(self, member: str, name: str) -> bool:
        """Because it was voided, or by itself."""
        page = self._page(member)
        parts = page.holds.pop(name, [])
        for lot, mine in parts:
            lot.remaining += mine
        page.note(sum(mine for _, mine in parts))
        return bool(parts)

    # Points come back.

    def cancel_voucher(self, member: str, purchase: str) -> bool:
        page = self._page(member)
        bought = page.purchases[purchase]
        if bought.voucher != "ISSUED":
            page.note()
            return False
        bought.voucher = "CANCELLED"
        for lot, mine in bought.parts:
            if lot.reversed:  # Was itself taken back: the points come as a lot of their own.
                page.put("", mine, lot.expires_at_ms)
            else:
                lot.remaining += mine
                lot.spent -= mine
        page.note(sum(mine for _, mine in bought.parts))
        page.note()  # The voucher.
        return True

    def reverse(self, member: str, name: str, points: int | None = None) -> bool:
        """What came in is taken back, in part or all that is left: first what is still there, then as much as was spent of it from the
        member's other points, as far as there are any."""
        page = self._page(member)
        lot = page.lots[name]
        left = lot.total - lot.asked_back
        asked = left if points is None else points
        if not 0 < asked <= left:
            page.note()
            return False
        lot.asked_back += asked
        own = min(asked, lot.remaining)
        lot.remaining -= own
        page.captures += lot.parked and own > 0
        spent = min(asked - own, lot.spent - lot.reversed)
        lot.reversed += spent
        page.note(own + sum(mine for _, mine in page.spend(spent)))
        if lot.qualifies:
            page.qualifying = max(0, page.qualifying - asked)
        return True

    # Points and members move.

    def transfer(self, member: str, to: str, points: int) -> bool:
        """They keep the time at which they expire."""
        page, other = self._page(member), self._page(to)
        if page.suspended or points > page.points or page is other:
            page.note()
            return False
        page.note(points)
        by_expiry: dict[float, int] = {}
        for lot, mine in page.spend(points):
            by_expiry[lot.expires_at_ms] = by_expiry.get(lot.expires_at_ms, 0) + mine
        for expires_at_ms, mine in sorted(by_expiry.items()):
            other.put("", mine, expires_at_ms)
        other.note(points)
        return True

    def merge(self, member: str, into: str) -> bool:
        """All that a member has is another's from now on, and so is all that is sent to the old number."""
        page, other = self.pages[member], self._page(into)
        if page.holds:
            page.note()
            return False
        arriving = [lot for lot in page.lots.values() if lot.remaining]
        if arriving:
            page.note(page.points)
            other.note(sum(lot.remaining for lot in arriving))
        for name, lot in page.lots.items():
            other.lots[f"{member}: {name}"] = lot
        page.lots, page.merged_into = {}, into
        page.note()
        other.note()
        other.purchases |= {f"{member}: {name}": bought for name, bought in page.purchases.items()}
        other.offers = page.offers | other.offers
        qualifying, page.qualifying = page.qualifying, 0
        self._qualify(into, qualifying)
        return True

    def _earn(self, member: str, base: int, category: str | None, name: str) -> int:
        page, offers = self._page(member), self._program(member).get("offers", {})
        lines = [base]
        for offer_name, (uses, given) in sorted(page.offers.items()):
            offer = offers[offer_name]
            if (category in offer["categories"] if "categories" in offer else True) and uses < offer.get("uses_max", inf):
                bonus = base * offer.get("bonus_percent", 0) // 100 + offer.get("bonus_points", 0)
                bonus = min(bonus, offer["cap_points"] - given) if "cap_points" in offer else bonus
                if bonus:
                    lines.append(bonus)
                    page.offers[offer_name] = (uses + 1, given + bonus)
        points = sum(lines)
        if points:
            page.put(name, points, qualifies=True, parked=page.suspended)
            page.note(*lines)
            if page.suspended:
                page.captures += len(lines)
            self._qualify(member, points)
        return points

    def _page(self, member: str) -> Page:
        page = self.pages[member]
        return self._page(page.merged_into) if page.merged_into else page

    def _program(self, member: str) -> Mapping[str, Any]:
        program: Mapping[str, Any] = self._programs[member.partition("/")[0]]
        return program

    def _tiers(self, member: str) -> list[dict[str, Any]]:
        tiers: list[dict[str, Any]] = self._program(member)["tiers"]
        return tiers

    def _qualify(self, member: str, points: int) -> None:
        """More points may promote, and never demote."""
        page, tiers = self._page(member), self._tiers(member)
        page.qualifying += points
        names = [tier["name"] for tier in tiers]
        reached: str = [tier["name"] for tier in tiers if tier["threshold_points"] <= page.qualifying][-1]
        if names.index(reached) > names.index(page.tier):
            page.events += 1
            page.tier = reached
