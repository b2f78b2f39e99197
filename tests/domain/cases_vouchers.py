"""Vouchers: bought or given, then redeemed, cancelled or expired, once."""

from dataclasses import replace

from schemas.records import MemberOperationKind
from streams.domain.program import Offer, Reward
from streams.domain.refusals import Refusal
from streams.domain.vouchers import OPEN_MAX
from tests.domain.casework import DAY_MS, case, code_of, ms, on, seen, suspend, tick
from tests.domain.shell import NOW_MS, PROGRAM, activate, cancel_voucher, earn, hold, operate, redeem, redeem_voucher, reverse

SHOP = replace(
    PROGRAM,
    rewards={"SPA": Reward(reward_code="SPA", points=50, valid_days=10), "BAR": Reward(reward_code="BAR")},
    tiers=(PROGRAM.tiers[0], replace(PROGRAM.tiers[1], reward_code="BAR"), PROGRAM.tiers[2]),
    offers={"gift": Offer(offer_id="gift", reward_code="BAR")},
)
BERLIN = replace(SHOP, time_zone="Europe/Berlin")
ENDS = NOW_MS + 10 * DAY_MS
"""When the voucher of the second command here expires."""
SPA = (earn(100), redeem(50, reward_code="SPA"))
BAR = (earn(100), redeem(50, reward_code="BAR"))
"""A voucher that never expires."""
CODE = code_of("c2")
REDEEMED, CANCELLED, EXPIRED = Refusal.VOUCHER_ALREADY_REDEEMED, Refusal.VOUCHER_ALREADY_CANCELLED, Refusal.VOUCHER_EXPIRED
SATURDAY = ms("2025-03-22 12:00", "Europe/Berlin")
PROMOTED = code_of("tier:silver:3")
"""Events 1 to 3 are the enrolment, the balance and the tier."""

CASES = [
    # Buying.
    case("at its price", *SPA, after=(50, 100), program=SHOP, events=("BALANCE_CHANGED", "VOUCHER_ISSUED")),
    case("above its price", earn(100), redeem(51, reward_code="SPA"), result=Refusal.REWARD_PRICE_DIFFERS, after=(100, 100), program=SHOP),
    case("below its price", earn(100), redeem(49, reward_code="SPA"), result=Refusal.REWARD_PRICE_DIFFERS, after=(100, 100), program=SHOP),
    case("the price comes before the balance", redeem(51, reward_code="SPA"), result=Refusal.REWARD_PRICE_DIFFERS, after=(0, 0), program=SHOP),
    case("suspended comes before the price", earn(100), suspend, redeem(51, reward_code="SPA"), result=Refusal.ACCOUNT_SUSPENDED, after=(100, 100),
         program=SHOP),
    case("without the points", redeem(50, reward_code="SPA"), result=Refusal.INSUFFICIENT_POINTS, after=(0, 0), program=SHOP),
    case("a reward without a price", earn(100), redeem(7, reward_code="BAR"), after=(93, 100), program=SHOP),
    case("a reward that is not described", earn(100), redeem(7, reward_code="X"), after=(93, 100), program=SHOP),
    case("as many as a member can have", earn(201), *[redeem(1, reward_code="BAR")] * OPEN_MAX, after=(1, 201), program=SHOP),
    case("one more", earn(201), *[redeem(1, reward_code="BAR")] * (OPEN_MAX + 1), result=Refusal.ACCOUNT_TOO_LARGE, after=(1, 201), program=SHOP),
    case("points alone can always be redeemed", earn(201), *[redeem(1, reward_code="BAR")] * OPEN_MAX, redeem(1), after=(0, 201), program=SHOP),
    # Handing in.
    case("handed in", *SPA, redeem_voucher(CODE), after=(50, 100), program=SHOP, events=("VOUCHER_REDEEMED",)),
    case("handed in twice", *SPA, redeem_voucher(CODE), redeem_voucher(CODE), result=REDEEMED, after=(50, 100), program=SHOP),
    case("no such code", *SPA, redeem_voucher("7K3M-Q2XW-0HVT-9ZBD4"), result=Refusal.VOUCHER_NOT_FOUND, after=(50, 100), program=SHOP),
    case("while suspended", *SPA, suspend, redeem_voucher(CODE), result=Refusal.ACCOUNT_SUSPENDED, after=(50, 100), program=SHOP),
    case("no such code comes before suspended", suspend, redeem_voucher("X"), result=Refusal.VOUCHER_NOT_FOUND, after=(0, 0), program=SHOP),
    case("suspended comes before redeemed", *SPA, redeem_voucher(CODE), suspend, redeem_voucher(CODE), result=Refusal.ACCOUNT_SUSPENDED, after=(50, 100),
         program=SHOP),
    case("two of one reward are two", *BAR, redeem(10, reward_code="BAR"), redeem_voucher(CODE), redeem_voucher(code_of("c3")), after=(40, 100), program=SHOP),
    case("handing in cannot be reversed", *SPA, redeem_voucher(CODE), reverse("c3"), result=Refusal.TRANSACTION_NOT_REVERSIBLE, after=(50, 100), program=SHOP),
    # Expiring.
    case("the last millisecond", *SPA, seen(ENDS - 1, redeem_voucher(CODE)), after=(50, 100), program=SHOP),
    case("its end", *SPA, seen(ENDS, redeem_voucher(CODE)), result=EXPIRED, after=(50, 100), program=SHOP),
    case("a tick before its end", *SPA, tick(ENDS - 1), result=None, after=(50, 100), program=SHOP, events=()),
    case("a tick at its end", *SPA, tick(ENDS), result=None, after=(50, 100), program=SHOP, events=("VOUCHER_EXPIRED",)),
    case("what else comes before its end leaves it alone", *SPA, hold(9, expires_at_ms=ENDS - 1), tick(ENDS - 1), result=None, after=(50, 100),
         program=SHOP, events=("BALANCE_CHANGED",)),
    case("once", *SPA, tick(ENDS), tick(ENDS + 1), result=None, after=(50, 100), program=SHOP, events=()),
    case("what was handed in does not expire", *SPA, redeem_voucher(CODE), tick(ENDS), result=None, after=(50, 100), program=SHOP, events=()),
    case("without valid days it never expires", *BAR, seen(99_999 * DAY_MS, redeem_voucher(CODE)), after=(50, 100), program=SHOP),
    case("handed in in time and seen too late", *SPA, seen(ENDS, redeem_voucher(CODE, occurred_at_ms=ENDS - 1)), result=EXPIRED, after=(50, 100), program=SHOP),
    case("bought longer ago than it is valid", earn(100), seen(ENDS, redeem(50, reward_code="SPA")), after=(50, 100), program=SHOP,
         events=("BALANCE_CHANGED", "VOUCHER_ISSUED", "VOUCHER_EXPIRED")),
    case("ten days are nine and 23 hours in Berlin's spring", earn(100), on(SATURDAY, redeem(50, reward_code="SPA")),
         seen(ms("2025-04-01 12:00", "Europe/Berlin"), redeem_voucher(CODE)), result=EXPIRED, after=(50, 100), program=BERLIN),
    case("and a millisecond before", earn(100), on(SATURDAY, redeem(50, reward_code="SPA")),
         seen(ms("2025-04-01 12:00", "Europe/Berlin") - 1, redeem_voucher(CODE)), after=(50, 100), program=BERLIN),
    # Cancelling.
    case("cancelled: the price comes back", *SPA, cancel_voucher(CODE), after=(100, 100), program=SHOP, events=("BALANCE_CHANGED", "VOUCHER_CANCELLED"),
         lots={"c1": 100}),
    case("cancelled twice", *SPA, cancel_voucher(CODE), cancel_voucher(CODE), result=CANCELLED, after=(100, 100), program=SHOP),
    case("cancelled and handed in", *SPA, cancel_voucher(CODE), redeem_voucher(CODE), result=CANCELLED, after=(100, 100), program=SHOP),
    case("handed in and cancelled", *SPA, redeem_voucher(CODE), cancel_voucher(CODE), result=REDEEMED, after=(50, 100), program=SHOP),
    case("expired and cancelled", *SPA, seen(ENDS, cancel_voucher(CODE)), result=EXPIRED, after=(50, 100), program=SHOP),
    case("cancelled just in time", *SPA, seen(ENDS - 1, cancel_voucher(CODE)), after=(100, 100), program=SHOP),
    case("cancelled while suspended", *SPA, suspend, cancel_voucher(CODE), after=(100, 100), program=SHOP),
    case("no such code to cancel", cancel_voucher("X"), result=Refusal.VOUCHER_NOT_FOUND, after=(0, 0), program=SHOP),
    case("cancelled, then its redemption reversed", *SPA, cancel_voucher(CODE), reverse("c2"), result=Refusal.ALREADY_REVERSED, after=(100, 100), program=SHOP),
    case("after a part of its price came back: the rest", *SPA, reverse("c2", 20), cancel_voucher(CODE), after=(100, 100), program=SHOP),
    case("longer ago than answers are remembered", *BAR, seen(91 * DAY_MS, cancel_voucher(CODE)), after=(100, 100), program=SHOP),
    # Reversing what bought it.
    case("the redemption reversed: it is cancelled", *SPA, reverse("c2"), after=(100, 100), program=SHOP, events=("BALANCE_CHANGED", "VOUCHER_CANCELLED")),
    case("and cannot be handed in", *SPA, reverse("c2"), redeem_voucher(CODE), result=CANCELLED, after=(100, 100), program=SHOP),
    case("a part reversed: it stays", *SPA, reverse("c2", 49), redeem_voucher(CODE), after=(99, 100), program=SHOP),
    case("the last part reversed: it is cancelled", *SPA, reverse("c2", 49), reverse("c2"), redeem_voucher(CODE), result=CANCELLED, after=(100, 100),
         program=SHOP),
    case("handed in: no reversal", *SPA, redeem_voucher(CODE), reverse("c2"), result=REDEEMED, after=(50, 100), program=SHOP),
    case("handed in: not in part either", *SPA, redeem_voucher(CODE), reverse("c2", 1), result=REDEEMED, after=(50, 100), program=SHOP),
    case("expired: the points come back all the same", *SPA, tick(ENDS), reverse("c2"), after=(100, 100), program=SHOP, events=("BALANCE_CHANGED",)),
    # Given.
    case("with a promotion", earn(1_000), after=(1_000, 1_000, "silver"), program=SHOP, events=("BALANCE_CHANGED", "TIER_CHANGED", "VOUCHER_ISSUED")),
    case("past the tier that gives one: none", earn(5_000), after=(5_000, 5_000, "gold"), program=SHOP, events=("BALANCE_CHANGED", "TIER_CHANGED")),
    case("not with a tier that somebody gave", operate(MemberOperationKind.SET_TIER, tier="silver"), after=(0, 0, "silver"), program=SHOP,
         events=("TIER_CHANGED",)),
    case("not with the way down", earn(5_000), reverse("c1", 4_000), after=(1_000, 1_000, "silver"), program=SHOP, events=("BALANCE_CHANGED", "TIER_CHANGED")),
    case("a promotion's voucher is handed in", earn(1_000), redeem_voucher(PROMOTED), after=(1_000, 1_000, "silver"), program=SHOP),
    case("the next promotion has one of its own", earn(1_000), redeem_voucher(PROMOTED), reverse("c1"), earn(1_000), after=(1_000, 1_000, "silver"),
         program=SHOP, events=("BALANCE_CHANGED", "TIER_CHANGED", "VOUCHER_ISSUED")),
    case("a promotion's voucher has no price to give back", earn(1_000), cancel_voucher(PROMOTED), after=(1_000, 1_000, "silver"), program=SHOP,
         events=("VOUCHER_CANCELLED",)),
    case("the earn behind it can be reversed", earn(1_000), redeem_voucher(PROMOTED), reverse("c1"), after=(0, 0), program=SHOP),
    case("with an activation", activate("gift", "e"), after=(0, 0), program=SHOP, events=("OFFER_ACTIVATED", "VOUCHER_ISSUED")),
    case("it is handed in", activate("gift", "e"), redeem_voucher(code_of("e")), after=(0, 0), program=SHOP),
]  # fmt: skip
