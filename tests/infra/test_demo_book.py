"""The demo's second opinion against the domain: two that share no code must come to the same accounts."""

import random
import tomllib
from decimal import Decimal

from infra.demo.book import Book
from infra.demo.guests import GUEST, OFFER
from infra.stack import EXAMPLE_FILE
from schemas.contract import Command
from schemas.records import Account, Enrolment, MemberStatus, OfferActivation, Outcome, ProfileChange, Transaction, TransactionKind
from streams import configuration
from streams.domain.desk import Received, settle

COMMANDS = 400
PROGRAM_ID, _, MEMBER_ID = GUEST.partition("/")


class Desk:
    """The domain, for one member."""

    def __init__(self, document: dict) -> None:
        self.program = configuration.parse(document, voucher_key=b"a voucher key for tests").programs[PROGRAM_ID]
        self.account: Account | None = None
        self.events = self.entries = 0

    def take(self, command: Command) -> None:
        received = Received(stream="any", command=command, topic="any", partition=0, offset=0, ingested_at_ms=1, correlation_id=None)
        no_answer: Outcome | None = None
        settled = settle(self.account, received, remembered=no_answer, original=None, program=self.program, recorded_at_ms=2)
        self.account = settled.account
        self.events += len(settled.events)
        self.entries += len(settled.entries)


def common(number: int, **fields: object) -> dict:
    return {"program_id": PROGRAM_ID, "member_id": MEMBER_ID, "source_system": "test", "occurred_at_ms": 1000 + number} | fields


def test_the_book_agrees_with_the_domain() -> None:
    document = tomllib.loads(configuration.render_example(EXAMPLE_FILE.read_text()))
    book, desk, chance = Book(document["programs"]), Desk(document), random.Random(1)
    desk.take(Enrolment(**common(0, event_id="join")))
    book.enrol(GUEST)
    for number in range(COMMANDS):
        _one(book, desk, chance, number)
        page, account = book.pages[GUEST], desk.account
        assert account is not None
        assert page.balance == (account.available_points, account.qualifying_points, account.tier, account.event_sequence), number
        assert (page.events, page.entries) == (desk.events, desk.entries), number
    assert page.tier == "GOLD" and page.offers and page.suspended, "the run has been through everything that the book knows"


def _one(book: Book, desk: Desk, chance: random.Random, number: int) -> None:
    """One command, to both."""
    name, points = f"t{number}", chance.randint(1, 400)
    kind = chance.choice(list(TransactionKind)[1:])
    if number == COMMANDS // 3:
        desk.take(OfferActivation(**common(number, event_id=name, offer_id=OFFER)))
        book.activate(GUEST, OFFER)
    elif number == COMMANDS * 2 // 3:
        desk.take(ProfileChange(**common(number, event_id=name, status=MemberStatus.SUSPENDED)))
        book.suspend(GUEST)
    elif kind is TransactionKind.REVERSE:  # The book knows no reversals; a stay takes their place.
        amount, nights = Decimal(chance.randint(100, 9999)) / 100, chance.randint(0, 3)
        stay = common(number, transaction_id=name, kind=TransactionKind.EARN, category=chance.choice(["room", "spa"]), nights=nights)
        desk.take(Transaction(**stay, amount_minor=int(amount * 100), currency="EUR"))
        book.stay(GUEST, amount, "EUR", nights, str(stay["category"]))
    elif kind is TransactionKind.EARN:
        desk.take(Transaction(**common(number, transaction_id=name, kind=kind, points=points)))
        book.earn(GUEST, points)
    elif kind is TransactionKind.ADJUST:
        points = chance.choice([-points, points])
        desk.take(Transaction(**common(number, transaction_id=name, kind=kind, points=points, reason="test", actor="test")))
        book.adjust(GUEST, points)
    else:
        reward = chance.random() < 0.5
        desk.take(Transaction(**common(number, transaction_id=name, kind=kind, points=points, reward_code="spa-day" if reward else None)))
        book.redeem(GUEST, points, reward=reward)
