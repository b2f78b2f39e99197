"""Why a command is refused. A refusal is an answer, not an error: it is remembered, published and given again to a repetition."""

from enum import StrEnum

ID_REUSED = "ID_REUSED"
"""Reason of the result CONFLICT: the id was used before with other content. No refusal: nothing is remembered or published for it."""


class Refusal(StrEnum):
    """In order of precedence: of several rules that say no, the first one here is the answer. The codes are part of the API: stable."""

    MEMBER_ALREADY_ENROLLED = "MEMBER_ALREADY_ENROLLED"
    """Enrolment: the member exists. Its profile is changed by profile changes."""

    OFFER_UNKNOWN = "OFFER_UNKNOWN"
    """Offer activation: the programme has no such offer."""

    CURRENCY_NOT_EARNING = "CURRENCY_NOT_EARNING"
    """Earn by an amount: the programme has no rate for the currency. A silent 0 would hide a missing line in the configuration."""

    TRANSACTION_NOT_FOUND = "TRANSACTION_NOT_FOUND"
    """Reverse: the member has no transaction of that id, or it is older than answers are remembered."""

    TRANSACTION_NOT_REVERSIBLE = "TRANSACTION_NOT_REVERSIBLE"
    """Reverse: only an applied earn, redeem or adjust that moved points can be taken back; no refused one, and no reversal."""

    ACCOUNT_SUSPENDED = "ACCOUNT_SUSPENDED"
    """Redeem, offer activation: nothing can be spent or joined while suspended. Earns, adjustments and reversals go on: points are never
    lost because of the order in which systems report."""

    OFFER_NOT_RUNNING = "OFFER_NOT_RUNNING"
    """Offer activation: it happened before the offer started or after it ended."""

    OFFER_ALREADY_ACTIVE = "OFFER_ALREADY_ACTIVE"
    """Offer activation: the member opted in before, by another event."""

    ALREADY_REVERSED = "ALREADY_REVERSED"
    """Reverse: nothing of the transaction is left to take back."""

    REVERSAL_TOO_LARGE = "REVERSAL_TOO_LARGE"
    """Reverse: less is left of the transaction than was asked for."""

    INSUFFICIENT_POINTS = "INSUFFICIENT_POINTS"
    """Redeem, or an adjust below 0: the member has fewer points. Never taken in part."""

    PROFILE_TOO_LARGE = "PROFILE_TOO_LARGE"
    """Profile change: the account would hold more attributes, or versions of more source systems, than a record may carry."""

    POINTS_OVERFLOW = "POINTS_OVERFLOW"
    """A balance would leave the range in which sums are exact everywhere (see POINTS_LIMIT)."""
