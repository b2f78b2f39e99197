"""A second opinion: what every account must be, reckoned in plain Python from what the demo has sent. Shares no code with the domain.

It reads the programmes' rules from the same configuration file as the pipeline, and relies on nothing else of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass(slots=True)
class Page:
    """One member."""

    tier: str
    points: int = 0
    qualifying: int = 0
    suspended: bool = False
    offers: set[str] = field(default_factory=set)
    events: int = 1
    """How many events the receivers must have heard of; the enrolment is the first."""
    entries: int = 0
    """How many lines the ledger must have."""

    @property
    def balance(self) -> tuple[int, int, str, int]:
        """What can be read in several places: points, qualifying points, tier, sequence of the last event."""
        return self.points, self.qualifying, self.tier, self.events


class Book:
    """Members are named `programme/member`, as everywhere in the demo."""

    def __init__(self, programs: Mapping[str, Any]) -> None:
        """`programs`: the table of that name in the configuration file."""
        self._programs = programs
        self.pages: dict[str, Page] = {}

    @property
    def events(self) -> int:
        return sum(page.events for page in self.pages.values())

    @property
    def entries(self) -> int:
        return sum(page.entries for page in self.pages.values())

    @property
    def points(self) -> int:
        return sum(page.points for page in self.pages.values())

    @property
    def balances(self) -> dict[str, tuple[int, int, str, int]]:
        return {member: page.balance for member, page in self.pages.items()}

    def enrol(self, member: str) -> None:
        self.pages[member] = Page(tier=self._tiers(member)[0]["name"])

    def stay(self, member: str, amount: Decimal, currency: str, nights: int, category: str = "room") -> int:
        """A stay is paid for; the points that it gives, bonus included."""
        page, program = self.pages[member], self._program(member)
        rules = program["earn"]
        percent = next(tier.get("earn_percent", 100) for tier in program["tiers"] if tier["name"] == page.tier)
        base = amount * rules["points_per_unit"][currency] + nights * rules.get("points_per_night", 0)
        lines = [int(base * percent / 100)]
        for name in page.offers:
            offer = program["offers"][name]
            if category in (offer.get("categories") or [category]):
                lines.append(lines[0] * offer["bonus_percent"] // 100)
        points = sum(lines)
        page.points += points
        page.entries += len(lines)
        page.events += 1
        self._qualify(member, points)
        return points

    def earn(self, member: str, points: int) -> None:
        self._move(member, points)
        self._qualify(member, points)

    def adjust(self, member: str, points: int) -> bool:
        """Whether it is to be applied."""
        applied = self.pages[member].points + points >= 0
        self._move(member, points if applied else 0)
        return applied

    def redeem(self, member: str, points: int, *, reward: bool = False) -> bool:
        """Whether it is to be applied."""
        page = self.pages[member]
        applied = not page.suspended and points <= page.points
        self._move(member, -points if applied else 0)
        page.events += applied and reward  # The voucher.
        return applied

    def activate(self, member: str, offer: str) -> None:
        self.pages[member].offers.add(offer)
        self.pages[member].events += 1

    def suspend(self, member: str) -> None:
        self.pages[member].suspended = True
        self.pages[member].events += 1

    def _program(self, member: str) -> Mapping[str, Any]:
        program: Mapping[str, Any] = self._programs[member.partition("/")[0]]
        return program

    def _tiers(self, member: str) -> list[dict[str, Any]]:
        tiers: list[dict[str, Any]] = self._program(member)["tiers"]
        return tiers

    def _move(self, member: str, points: int) -> None:
        """One event, and a line in the ledger unless nothing moved: refused."""
        page = self.pages[member]
        page.points += points
        page.entries += points != 0
        page.events += 1

    def _qualify(self, member: str, points: int) -> None:
        page = self.pages[member]
        page.qualifying += points
        reached: str = [tier["name"] for tier in self._tiers(member) if tier["threshold_points"] <= page.qualifying][-1]
        page.events += reached != page.tier
        page.tier = reached
