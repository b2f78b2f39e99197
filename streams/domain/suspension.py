"""What an account may do while its member is suspended or has left: the matrix is in README.md."""

from dataclasses import replace

from schemas.records import Account, Lot, MemberStatus
from streams.domain.program import EarnWhileSuspended, Program
from streams.domain.refusals import Refusal

BARRED = {MemberStatus.SUSPENDED: Refusal.ACCOUNT_SUSPENDED, MemberStatus.LEFT: Refusal.MEMBERSHIP_ENDED}


def barred(account: Account) -> Refusal | None:
    """Why nothing leaves the account and nothing is joined; None: it may."""
    return BARRED.get(account.status)


def earn_barred(account: Account, program: Program) -> Refusal | None:
    """Why the account earns nothing."""
    return barred(account) if program.earn_while_suspended is EarnWhileSuspended.REFUSE else None


def parked_if_barred(lot: Lot, account: Account, program: Program) -> Lot:
    """The lot of an earn as it goes in: pending until the suspension ends, if the programme parks. One that is pending anyway stays so."""
    if lot.pending or program.earn_while_suspended is not EarnWhileSuspended.PARK or barred(account) is None:
        return lot
    return replace(lot, pending=True, parked=True)
