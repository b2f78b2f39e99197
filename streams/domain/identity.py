"""Keys, ids and hashes: all derived from what a command says, so that a repetition and a rebuild make the same ones."""

import hmac
from hashlib import sha256

import orjson

from schemas.contract import ADDRESS_MARK, Command, command_id, member_key
from schemas.records import Transaction

# Ids are printable, so NUL can stand in none of them: joined with it, different parts never give the same text.
SEPARATOR = "\x00"

HASH_CHARACTERS = 32

# Ids are 26 characters of base 32 in lower case, 130 bits: two members' ids never meet. Every event and entry has one, and the standard
# library's encoder is written in Python: two characters at a time take half as long.
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)


def transaction_key(program_id: str, member_id: str, transaction_id: str) -> bytes:
    """Key in the outcomes table of a transaction, for example of the one that a REVERSE takes back."""
    return member_key(program_id, member_id) + f"{SEPARATOR}t:{transaction_id}".encode()


def outcome_key(program_id: str, member_id: str, command: Command) -> bytes:
    """Key in the outcomes table of any command. Transactions have ids of their own, all other commands of a member share one set."""
    if isinstance(command, Transaction):
        return transaction_key(program_id, member_id, command.transaction_id)
    return member_key(program_id, member_id) + f"{SEPARATOR}e:{command_id(command)}".encode()


def payload_hash(command: Command) -> str:
    """The same for two commands that say the same: 32 hex characters.

    `occurred_at_ms` does not count, some senders stamp every attempt anew. Fields that are null do not count either: a schema version
    that adds an optional field must not turn the repetition of an older command into a conflict.
    """
    content = {name: value for name, value in command.to_avro().items() if value is not None}
    del content["occurred_at_ms"]
    if content.get("line_items"):
        content["line_items"] = [{name: value for name, value in line.items() if value is not None} for line in content["line_items"]]
    canonical = orjson.dumps([command.SCHEMA, content], option=orjson.OPT_SORT_KEYS)
    return sha256(canonical).hexdigest()[:HASH_CHARACTERS]


def event_id(program_id: str, member_id: str, sequence: int) -> str:
    """Id of a member's loyalty event. Letters, digits and '_' only: webhook signatures separate their parts with '.'."""
    return "evt_" + _number_id(program_id, member_id, sequence)


def entry_id(program_id: str, member_id: str, entry_sequence: int) -> str:
    """Id of a member's ledger entry."""
    return "ent_" + _number_id(program_id, member_id, entry_sequence)


def _number_id(program_id: str, member_id: str, number: int) -> str:
    return _text_id(SEPARATOR.join((program_id, member_id, str(number))))


def _text_id(text: str) -> str:
    digest = sha256(text.encode()).digest()
    bits = int.from_bytes(digest[:17], "big") >> 6
    return "".join([_PAIRS[bits >> shift & 1023] for shift in range(120, -10, -10)])


def voucher_key(program_id: str, member_id: str, voucher_code: str) -> bytes:
    """Key in the vouchers table."""
    return member_key(program_id, member_id) + f"{SEPARATOR}v:{voucher_code}".encode()


def pseudonym(key: bytes, *parts: str) -> str:
    """What stands for something personal: always the same for the same parts, and nothing to whoever has not the key. 32 hex characters."""
    return hmac.new(key, SEPARATOR.join(parts).encode(), sha256).hexdigest()[:HASH_CHARACTERS]


def address(kind: str, value: str) -> str:
    """What stands for a member's id when only an external id is known: `@employee:21001`. No member's own id begins like that."""
    return f"{ADDRESS_MARK}{kind}:{value}"


def budget_member_id(offer_id: str) -> str:
    """What stands for a member's id in relays to the counter of an offer's budget: no member's id, for it has a NUL."""
    return f"{SEPARATOR}offer:{offer_id}"


def derived_id(kind: str, program_id: str, member_id: str, command_id: str, number: int = 0) -> str:
    """Id of something that a command made beside itself: a lot, a relay. `kind` names it: `lot`, `rly`."""
    return f"{kind}_" + _text_id(SEPARATOR.join((kind, program_id, member_id, command_id, str(number))))
