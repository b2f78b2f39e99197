"""Steps of what is given back or handed in: a cancelled voucher, a corrected stay, a voucher at the spa."""

import asyncio

from infra.demo.checks import Step, duration
from infra.demo.guests import DOUBLED_STAY, GUEST, REWARD, REWARD_POINTS, SPA_GUEST, STAY
from infra.demo.systems import stay_of
from infra.demo.telling import both_hear, code_of, give, number_of, refused, submit
from infra.demo.world import World

PURCHASE = "app:redeem:2"  # The spa day of the step before.
CORRECTED_POINTS = 1000
SPA = "spa"
GIVEN = 1500


async def give_back(world: World, step: Step) -> str:
    book, page = world.book, world.book.pages[GUEST]
    code = (await world.app.hear("VOUCHER_ISSUED", PURCHASE)).event["voucher_code"]
    book.cancel_voucher(GUEST, PURCHASE)
    await submit(world, GUEST, "app:cancel:1", "CANCEL_VOUCHER", voucher_code=code)
    claim = f"the spa day is cancelled, its {REWARD_POINTS:,} points are back: {page.points:,} to spend"
    await both_hear(
        world, step, claim, GUEST, "app:cancel:1", movement="REFUND", points_delta=REWARD_POINTS, available_points=page.points
    )
    await both_hear(world, step, f"the voucher {code} is void", GUEST, "app:cancel:1", "VOUCHER_CANCELLED", voucher_code=code)
    account = await world.api.account(GUEST)
    lots, first = {lot["lot_id"]: lot["remaining"] for lot in account["lots"]}, stay_of(STAY)
    claim = f"GET /v1/members/{number_of(GUEST)}: they are in the lot that they came from, of the first stay"
    step.equal(claim, lots.get(first), page.lots[first].remaining)
    book.use_voucher(GUEST, PURCHASE)
    answer = await submit(world, GUEST, "spa:voucher:1", "REDEEM_VOUCHER", voucher_code=code, source_system=SPA)
    refused(step, "somebody shows the voucher at the spa", answer, "VOUCHER_ALREADY_CANCELLED")

    stay = stay_of(DOUBLED_STAY)
    book.reverse(GUEST, stay, CORRECTED_POINTS)
    await submit(world, GUEST, "hotel:correct:1", "REVERSE", reverses_transaction_id=stay, points=CORRECTED_POINTS, source_system="hotel")
    claim = f"the hotel corrects the last stay, {CORRECTED_POINTS:,} points are taken back: {page.points:,} to spend"
    await both_hear(
        world, step, claim, GUEST, "hotel:correct:1", movement="REVERSAL", points_delta=-CORRECTED_POINTS, available_points=page.points,
        qualifying_points=page.qualifying,
    )  # fmt: skip
    points_before = page.points
    book.reverse(GUEST, stay)
    book.reverse(GUEST, stay)
    twice = [
        world.api.transact(GUEST, f"hotel:undo:{number}", kind="REVERSE", reverses_transaction_id=stay, source_system="hotel") for number in (1, 2)
    ]
    answers = await asyncio.gather(*twice)
    seen = sorted((answer.status, code_of(answer)) for answer in answers)
    claim = "two clerks undo the rest of it at once: exactly one succeeds, the other reads ALREADY_REVERSED"
    step.equal(claim, seen, [(200, ""), (422, "ALREADY_REVERSED")], took_s=max(answer.took_s for answer in answers))
    winner = next(number for number, answer in enumerate(answers, 1) if answer.status == 200)
    taken = points_before - page.points
    claim = f"its {taken:,} points are taken back once: {page.points:,} to spend"
    await both_hear(world, step, claim, GUEST, f"hotel:undo:{winner}", movement="REVERSAL", points_delta=-taken, available_points=page.points)
    return f"{REWARD_POINTS:,} points came back to where they were from; a stay undone twice at once was undone once"


async def hand_in(world: World, step: Step) -> str:
    book = world.book
    await give(world, SPA_GUEST, "app:welcome:3", GIVEN)
    book.redeem(SPA_GUEST, REWARD_POINTS, reward=True, name="app:redeem:6")
    bought = await submit(world, SPA_GUEST, "app:redeem:6", "REDEEM", points=REWARD_POINTS, reward_code=REWARD)
    code = bought.body.get("voucher_code")
    account = await world.api.account(SPA_GUEST)
    seen = [(one["voucher_code"], one["reward_code"]) for one in account["vouchers"]]
    claim = f"GET /v1/members/{number_of(SPA_GUEST)}: one open voucher, {code} for {REWARD}"
    step.equal(claim, seen, [(code, REWARD)])
    book.use_voucher(SPA_GUEST, "app:redeem:6")
    handed_in = await submit(world, SPA_GUEST, "spa:voucher:2", "REDEEM_VOUCHER", voucher_code=code, source_system=SPA)
    await both_hear(world, step, "the voucher is handed in at the spa", SPA_GUEST, "spa:voucher:2", "VOUCHER_REDEEMED", voucher_code=code)
    book.use_voucher(SPA_GUEST, "app:redeem:6")
    again = await submit(world, SPA_GUEST, "spa:voucher:3", "REDEEM_VOUCHER", voucher_code=code, source_system=SPA)
    refused(step, "a copy of it is shown at the spa", again, "VOUCHER_ALREADY_REDEEMED")
    account = await world.api.account(SPA_GUEST)
    step.equal("GET: no open voucher is left", account["vouchers"], [])
    return f"a voucher is good once: yes in {duration(handed_in.took_s)}, then no in {duration(again.took_s)}"
