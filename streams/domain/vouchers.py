"""Vouchers: issued once, then redeemed, cancelled or expired, once. Codes are unique by construction: derived from what bought them, so
that a rebuild makes the same code."""

import hmac
from dataclasses import replace

from schemas.records import OpenVoucher, Transaction, Voucher, VoucherState
from streams.domain.book import Book
from streams.domain.facts import VoucherClosed, VoucherIssued
from streams.domain.identity import SEPARATOR
from streams.domain.periods import add_days
from streams.domain.program import Reward
from streams.domain.refusals import Refusal
from streams.domain.suspension import barred

OPEN_MAX = 200
"""Vouchers that a member can have open at once."""

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O and U, which people take for other characters or read as words."""

BODY_CHARACTERS = 16  # 80 bits: at a million vouchers a day, the first two equal codes are expected after some 3,000 years.
GROUP_CHARACTERS = 4


def voucher_code(voucher_key: bytes, program_id: str, member_id: str, transaction_id: str) -> str:
    """For example `7K3M-Q2XW-0HVT-9ZBD4`: 16 characters that nobody can guess without the key, and a check character."""
    message = SEPARATOR.join((program_id, member_id, transaction_id)).encode()
    number = int.from_bytes(hmac.digest(voucher_key, message, "sha256")[:10], "big")
    body = "".join(ALPHABET[number >> shift & 31] for shift in range(75, -5, -5))
    groups = [body[at : at + GROUP_CHARACTERS] for at in range(0, BODY_CHARACTERS, GROUP_CHARACTERS)]
    return "-".join(groups) + check_character(body)


def check_character(body: str) -> str:
    """Differs whenever one character of the body is wrong or two are exchanged, so a till can tell a typing error from an unknown code.

    The body is read as a polynomial over GF(32), at the primitive element 2 of x^5 + x^2 + 1: every place has another weight.
    """
    check = 0
    for character in body:
        check = check << 1 ^ ALPHABET.index(character)
        if check & 32:
            check ^= 0b100101
    check = check << 1
    return ALPHABET[check ^ 0b100101 if check & 32 else check]


def issue(book: Book, reward_code: str, issuance_id: str, issued_by: str, points: int) -> None:
    """Issue a voucher. `issuance_id` names the issuance: a replay gives the same code, and one that is as old as to be forgotten a new one."""
    account, program = book.account, book.program
    code = voucher_code(program.voucher_key, account.program_id, account.member_id, issuance_id)
    if book.voucher(code) is not None:
        code = voucher_code(program.voucher_key, account.program_id, account.member_id, f"{issuance_id}:{account.event_sequence}")
    reward = program.rewards.get(reward_code) or Reward(reward_code=reward_code)
    issued_at_ms = book.cause.occurred_at_ms
    expires_at_ms = None if reward.valid_days is None else add_days(program.time_zone, issued_at_ms, reward.valid_days)
    book.record(VoucherIssued(reward_code=reward_code, voucher_code=code, expires_at_ms=expires_at_ms))
    book.store_voucher(
        Voucher(
            voucher_code=code, reward_code=reward_code, state=VoucherState.ISSUED, issued_by=issued_by, points=points,
            issued_at_ms=issued_at_ms, expires_at_ms=expires_at_ms,
        )
    )  # fmt: skip


def refusal_of(voucher: Voucher) -> Refusal | None:
    """Why a voucher cannot be redeemed or cancelled any more."""
    match voucher.state:
        case VoucherState.REDEEMED:
            return Refusal.VOUCHER_ALREADY_REDEEMED
        case VoucherState.CANCELLED:
            return Refusal.VOUCHER_ALREADY_CANCELLED
        case VoucherState.EXPIRED:
            return Refusal.VOUCHER_EXPIRED
        case _:
            return None


def decide_redemption(book: Book, command: Transaction) -> Refusal | None:
    """REDEEM_VOUCHER: the guest hands it in."""
    voucher = book.voucher(command.voucher_code or "")
    if voucher is None:
        return Refusal.VOUCHER_NOT_FOUND
    if (refusal := barred(book.account)) is not None:
        return refusal
    refusal = refusal_of(voucher)
    if refusal is None:
        close(book, voucher, VoucherState.REDEEMED)
    return refusal


def close(book: Book, voucher: Voucher, state: VoucherState) -> None:
    """Leave ISSUED, for good."""
    book.store_voucher(replace(voucher, state=state, closed_at_ms=book.cause.occurred_at_ms))
    opened = OpenVoucher(voucher_code=voucher.voucher_code, reward_code=voucher.reward_code, expires_at_ms=voucher.expires_at_ms)
    book.record(VoucherClosed(voucher=opened, state=state.value))
