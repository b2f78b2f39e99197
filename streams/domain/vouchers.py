"""Voucher codes, unique by construction: derived from the transaction that bought them, so that a rebuild makes the same code."""

import hmac

from streams.domain.identity import SEPARATOR

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
