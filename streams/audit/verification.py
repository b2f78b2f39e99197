"""audit records in the order of their log -> whether each chain is whole, and where it first is not. Pure.

A chain proves that nothing between two of its records was changed, added, left out or moved. Its beginning may be gone, because retention
takes the oldest records; that its end is not gone only an anchor proves: a number and hash that were noted before, by an earlier verification
or by another store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.records import DeliveryAudit, SyncAudit
from streams.domain.audit_chain import hash_of, hash_of_values

Anchors = Mapping[str, Mapping[int, str]]
"""Chain -> number -> record_hash of some of its records, as they were noted before."""


class Fault(StrEnum):
    CHANGED = "CHANGED"  # The record's content is not what its hash was made of.
    REPLACED = "REPLACED"  # The record is consistent, but does not follow the one before it, or is not the one that was noted.
    MISSING = "MISSING"  # Numbers are left out.
    DOUBLED = "DOUBLED"  # A number that was there already.
    REORDERED = "REORDERED"  # Records stand in another order than that of their numbers.
    UNREADABLE = "UNREADABLE"  # No record of the audit.


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One record, wherever it was read."""

    chain: str
    place: str
    """Where it was read, for people."""
    number: int
    previous_hash: str
    record_hash: str
    calculated_hash: str
    """What record_hash must be for this content."""
    unreadable: str = ""
    """Why it is no record of the audit; the other fields say nothing then."""


@dataclass(frozen=True, slots=True)
class Break:
    """The first place at which a chain is not whole."""

    fault: Fault
    number: int
    """Number in the chain that is concerned."""
    place: str
    detail: str


@dataclass(slots=True)
class Chain:
    """What is known of one chain so far."""

    name: str
    records: int = 0
    unchained: int = 0
    """Records from before there were chains: they stand before number 1."""
    first_number: int = 0
    last_number: int = 0
    last_hash: str = ""
    broken: Break | None = None
    anchors: Mapping[int, str] = field(default_factory=dict)
    _gap: range = field(default_factory=lambda: range(0))

    @property
    def beginning_is_gone(self) -> bool:
        return self.first_number > 1

    def add(self, link: Link) -> None:
        """The next record in the order of the log."""
        if link.unreadable:
            self._break(Fault.UNREADABLE, self.last_number + 1, link.place, link.unreadable)
        elif link.number == 0:
            self._add_unchained(link)
        elif link.calculated_hash != link.record_hash:
            self._break(Fault.CHANGED, link.number, link.place, "its content is not what its hash was made of")
            self._follow(link)
        else:
            self._compare_anchors(link)
            self._compare_order(link)
            self._follow(link)

    def finish(self) -> None:
        """There are no more records. What was noted before must have been among them, unless retention took it."""
        lost = max(self.anchors, default=0)
        if lost > self.last_number:
            self._break(Fault.MISSING, self.last_number + 1, "the end", f"number {lost} was there before, and the chain ends at {self.last_number}")

    def _add_unchained(self, link: Link) -> None:
        if not self.records and not link.record_hash and not link.previous_hash:
            self.unchained += 1
        else:
            self._break(Fault.CHANGED, self.last_number + 1, link.place, "it has lost its number")

    def _compare_anchors(self, link: Link) -> None:
        if self.anchors.get(link.number, link.record_hash) != link.record_hash:
            self._break(Fault.REPLACED, link.number, link.place, "its hash is not the one that was noted before")

    def _compare_order(self, link: Link) -> None:
        if not self.records:
            if link.number > 1 and self.unchained:
                self._miss(link, range(1, link.number))
            elif (link.number == 1) == bool(link.previous_hash):
                self._break(Fault.REPLACED, link.number, link.place, "the first record has no predecessor, and every other one has")
        elif link.number == self.last_number + 1:
            if link.previous_hash != self.last_hash:
                self._break(Fault.REPLACED, link.number, link.place, "it was made for another predecessor than the one before it")
        elif link.number > self.last_number + 1:
            self._miss(link, range(self.last_number + 1, link.number))
        elif link.number < self.first_number:
            self._break(Fault.REORDERED, link.number, link.place, f"it stands after number {self.last_number}")
        elif self.broken is not None and link.number in self._gap:
            # What seemed to be left out comes later.
            self.broken = Break(Fault.REORDERED, link.number, link.place, f"it stands after number {self.last_number}")
        else:
            self._break(Fault.DOUBLED, link.number, link.place, "the chain has this number already")

    def _miss(self, link: Link, gap: range) -> None:
        if self.broken is None:
            self._gap = gap
        numbers = f"number {gap.start} is" if len(gap) == 1 else f"numbers {gap.start} to {gap[-1]} are"
        self._break(Fault.MISSING, gap.start, link.place, f"{numbers} left out before it")

    def _break(self, fault: Fault, number: int, place: str, detail: str) -> None:
        if self.broken is None:
            self.broken = Break(fault, number, place, detail)

    def _follow(self, link: Link) -> None:
        if not self.records:
            self.first_number = link.number
        self.records += 1
        if link.number > self.last_number:
            self.last_number, self.last_hash = link.number, link.record_hash


class Verifier:
    """Takes the records of any number of chains, each chain's in the order of its log."""

    def __init__(self, anchors: Anchors | None = None) -> None:
        self._chains = {name: Chain(name, anchors=noted) for name, noted in (anchors or {}).items()}

    def add(self, link: Link) -> None:
        self._chains.setdefault(link.chain, Chain(link.chain)).add(link)

    def finish(self) -> list[Chain]:
        """All chains, by name."""
        for chain in self._chains.values():
            chain.finish()
        return [self._chains[name] for name in sorted(self._chains)]


def link_of(record: SyncAudit | DeliveryAudit, partition: int, place: str) -> Link:
    """A record of partition `partition` of its topic."""
    return Link(
        chain=chain_name(record.destination if isinstance(record, DeliveryAudit) else None, partition),
        place=place,
        number=record.chain_number,
        previous_hash=record.previous_hash,
        record_hash=record.record_hash,
        calculated_hash=hash_of(record, record.chain_number, record.previous_hash),
    )


def link_of_row(values: Sequence[object], *, destination: str | None, partition: int, place: str, number: int, previous: str, record_hash: str) -> Link:
    """A row of ClickHouse; `values` are those of `audit_chain.HASHED`'s fields, in their order, times in milliseconds."""
    return Link(
        chain=chain_name(destination, partition),
        place=place,
        number=number,
        previous_hash=previous,
        record_hash=record_hash,
        calculated_hash=hash_of_values(values, number, previous),
    )


def chain_name(destination: str | None, partition: int) -> str:
    """`sync-audit/0`, or `delivery-audit/0/crm` with its destination."""
    return f"sync-audit/{partition}" if destination is None else f"delivery-audit/{partition}/{destination}"
