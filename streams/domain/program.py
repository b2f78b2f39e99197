"""Rules of one loyalty programme, as the domain reads them. Validated where they are loaded (streams/configuration.py)."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A tier is held by who has `threshold_points` qualifying points at least and less than the next tier's."""

    name: str
    threshold_points: int
    earn_percent: int = 100
    """What a computed earn is multiplied by for members of this tier: 125 gives a quarter more. Given points are moved as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Members who activated it earn a bonus of `bonus_percent` on top, while it runs: 100 doubles the points."""

    offer_id: str
    bonus_percent: int
    starts_at_ms: int = 0
    ends_at_ms: int | None = None
    """First instant after the offer; None: it does not end."""
    categories: frozenset[str] = frozenset()
    """Categories of sales it applies to; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Rules of one programme."""

    program_id: str
    tiers: tuple[Tier, ...]
    """By rising threshold; the first one's is 0."""
    points_per_unit: Mapping[str, int] = field(default_factory=dict)
    """Points per whole unit (not cent) of a currency, by ISO 4217 code. Other currencies earn nothing: they are refused."""
    points_per_night: int = 0
    offers: Mapping[str, Offer] = field(default_factory=dict)
    voucher_key: bytes = field(default=b"", repr=False)
    """Secret from which voucher codes are derived; must never change."""
