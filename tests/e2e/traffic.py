"""Seeded traffic for one programme: enrolments (some late), earns, redemptions, reversals, repetitions and conflicts."""

import random
from collections.abc import Iterator
from dataclasses import replace

from schemas.codec import Codec
from schemas.contract import member_key
from schemas.records import Enrolment, Transaction, TransactionKind
from schemas.registry import LocalRegistry
from streams import kafka, topics
from streams.settings import Settings

Command = Enrolment | Transaction


def commands(seed: int, members: int, transactions: int) -> Iterator[Command]:
    """All commands in order of sending. One member in ten is enrolled in the middle of the stream only."""
    dice = random.Random(seed)
    late = [number for number in range(members) if number % 10 == 9]
    yield from (_enrolment(number) for number in range(members) if number % 10 != 9)
    sent: dict[int, list[Transaction]] = {number: [] for number in range(members)}
    for i in range(transactions):
        if i == transactions // 2:
            yield from (_enrolment(number) for number in late)
        member = dice.randrange(members)
        transaction = _transaction(dice, member, f"pms:{seed}-{i}", sent[member])
        sent[member].append(transaction)
        yield transaction


def _enrolment(number: int) -> Enrolment:
    return Enrolment(program_id="grand", member_id=f"M-{number}", event_id=f"crm:{number}", source_system="crm", occurred_at_ms=1)


def _transaction(dice: random.Random, member: int, identity: str, earlier: list[Transaction]) -> Transaction:
    base = Transaction(
        program_id="grand", member_id=f"M-{member}", transaction_id=identity, source_system="pms", occurred_at_ms=2, kind=TransactionKind.EARN
    )
    roll = dice.random()
    if roll < 0.30:
        return replace(base, points=dice.randrange(1, 500))
    if roll < 0.55:
        return replace(base, amount_minor=dice.randrange(0, 40_000), currency=dice.choice(["EUR", "JPY"]))
    if roll < 0.80 or not earlier:
        return replace(base, kind=TransactionKind.REDEEM, points=dice.randrange(1, 2_000))
    other = dice.choice(earlier)
    if roll < 0.90:
        part = dice.choice([None, dice.randrange(1, 300)])
        return replace(base, kind=TransactionKind.REVERSE, points=part, reverses_transaction_id=other.transaction_id)
    if roll < 0.97:
        return other  # Sent again.
    return replace(other, points=(other.points or 0) + 1, amount_minor=None, currency=None)  # The same id with another payload.


def send(settings: Settings, stream: Iterator[Command]) -> int:
    """Produce all of it and wait for the acknowledgements; how many."""
    codec, producer, count = Codec(LocalRegistry()), kafka.producer(settings), 0
    for command in stream:
        topic = topics.ENROLMENTS if isinstance(command, Enrolment) else topics.TRANSACTIONS
        while True:
            try:
                producer.produce(
                    topic.name(settings.topic_prefix), key=member_key(command.program_id, command.member_id), value=codec.encode(command)
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        count += 1
    assert producer.flush(60) == 0
    return count
