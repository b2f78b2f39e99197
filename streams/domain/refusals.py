"""Why a command is refused. A refusal is an answer, not an error: it is remembered, published and given again to a repetition."""

from enum import StrEnum

ID_REUSED = "ID_REUSED"
"""Reason of the result CONFLICT: the id was used before with other content. No refusal: nothing is remembered or published for it."""


class Refusal(StrEnum):
    """In order of precedence: of several rules that say no, the first one here is the answer. The codes are part of the API: stable."""

    MEMBER_ERASED = "MEMBER_ERASED"
    """Any command: the member was erased, and nothing but the expiry of points goes on."""

    ATTRIBUTE_MASTERED_EXTERNALLY = "ATTRIBUTE_MASTERED_EXTERNALLY"
    """Enrolment, profile change: another source system masters a part of the profile that it touches. The detail names both."""

    MEMBER_ALREADY_ENROLLED = "MEMBER_ALREADY_ENROLLED"
    """Enrolment: the member exists, has not left, and this is no newer word of the system that has the last one on the status."""

    OFFER_UNKNOWN = "OFFER_UNKNOWN"
    """Offer activation: the programme has no such offer."""

    TIER_UNKNOWN = "TIER_UNKNOWN"
    """SET_TIER: the programme has no such tier."""

    CURRENCY_NOT_EARNING = "CURRENCY_NOT_EARNING"
    """Earn by an amount: no rule of the programme knows the currency. A silent 0 would hide a missing line in the configuration."""

    TRANSACTION_NOT_FOUND = "TRANSACTION_NOT_FOUND"
    """Reverse, activate: the member has no transaction of that id, or it is older than answers are remembered."""

    TRANSACTION_NOT_REVERSIBLE = "TRANSACTION_NOT_REVERSIBLE"
    """Reverse: only an applied earn, redeem, capture or adjust that moved points can be taken back; no refused one, and no reversal."""

    NOT_PENDING = "NOT_PENDING"
    """Activate: the transaction has no pending points."""

    HOLD_NOT_FOUND = "HOLD_NOT_FOUND"
    """Capture, void: the member has no hold of that id, or it ended longer ago than answers are remembered."""

    VOUCHER_NOT_FOUND = "VOUCHER_NOT_FOUND"
    """The member has no voucher of that code."""

    ACCOUNT_SUSPENDED = "ACCOUNT_SUSPENDED"
    """Redeem, hold, capture, transfer, redeem a voucher, activate an offer: nothing leaves and nothing is joined while suspended.
    Adjustments, reversals, voids and what comes by transfer go on: points are never lost because of the order in which systems report. Earns
    do as suspension.earn says; this is their answer where it says refuse."""

    MEMBERSHIP_ENDED = "MEMBERSHIP_ENDED"
    """The same of a member who has left."""

    SAME_MEMBER = "SAME_MEMBER"
    """Transfer, merge, pool: the other member is the member itself."""

    OFFER_NOT_RUNNING = "OFFER_NOT_RUNNING"
    """Offer activation: it happened before the offer started or after it ended."""

    OFFER_NOT_FOR_MEMBER = "OFFER_NOT_FOR_MEMBER"
    """Offer activation: the member is not in its audience."""

    OFFER_ALREADY_ACTIVE = "OFFER_ALREADY_ACTIVE"
    """Offer activation: the member opted in before, by another event, in the same period."""

    OFFER_BUDGET_SPENT = "OFFER_BUDGET_SPENT"
    """Offer activation: less of the offer's budget is left than one activation reserves."""

    REWARD_PRICE_DIFFERS = "REWARD_PRICE_DIFFERS"
    """Redeem: the points are not the price of the reward."""

    HOLD_ALREADY_CAPTURED = "HOLD_ALREADY_CAPTURED"
    """Capture, void: the hold was captured before."""

    HOLD_ALREADY_VOIDED = "HOLD_ALREADY_VOIDED"
    """Capture, void: the hold was voided before."""

    HOLD_EXPIRED = "HOLD_EXPIRED"
    """Capture, void: the hold's time was over, and its points went back."""

    CAPTURE_TOO_LARGE = "CAPTURE_TOO_LARGE"
    """Capture: the hold has fewer points."""

    VOUCHER_ALREADY_REDEEMED = "VOUCHER_ALREADY_REDEEMED"
    """Redeem or cancel a voucher, or reverse what bought it: it was redeemed."""

    VOUCHER_ALREADY_CANCELLED = "VOUCHER_ALREADY_CANCELLED"
    """Redeem or cancel a voucher: it was cancelled."""

    VOUCHER_EXPIRED = "VOUCHER_EXPIRED"
    """Redeem or cancel a voucher: its time was over."""

    HOLDS_OPEN = "HOLDS_OPEN"
    """Merge: holds are open. Capture or void them first."""

    ALREADY_REVERSED = "ALREADY_REVERSED"
    """Reverse: nothing of the transaction is left to take back."""

    REVERSAL_TOO_LARGE = "REVERSAL_TOO_LARGE"
    """Reverse: less is left of the transaction than was asked for."""

    INSUFFICIENT_POINTS = "INSUFFICIENT_POINTS"
    """Redeem, hold, transfer, or an adjust below 0: the member has fewer points. Never taken in part."""

    PROFILE_TOO_LARGE = "PROFILE_TOO_LARGE"
    """Profile change: the account would hold more attributes, or versions of more source systems, than a record may carry."""

    ACCOUNT_TOO_LARGE = "ACCOUNT_TOO_LARGE"
    """Hold, offer activation, voucher: the member has too many open ones."""

    POINTS_OVERFLOW = "POINTS_OVERFLOW"
    """A balance would leave the range in which sums are exact everywhere (see POINTS_LIMIT)."""
