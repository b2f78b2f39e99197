"""Many states in one call; where it is refused as a whole, one call for each, so that one member cannot hold up the others. Pure."""

from collections.abc import Callable, Sequence

from streams.connectors.contract import Answer, MemberState, Outcome, Request, Writing, Written


def together_or_alone(states: Sequence[MemberState], request: Callable[[Sequence[MemberState]], Request], judged: Callable[[Answer], Written]) -> Writing:
    answer = yield request(states)
    whole = judged(answer)
    if whole.outcome in (Outcome.DONE, Outcome.RETRY) or len(states) == 1:
        return [whole] * len(states)
    found = []
    for state in states:
        answer = yield request([state])
        found.append(judged(answer))
    return found


def of_some(states: Sequence[MemberState], left_out: Callable[[MemberState], Written | None], write: Callable[[Sequence[MemberState]], Writing]) -> Writing:
    """Write those states that are not left out."""
    known = [left_out(state) for state in states]
    wanted = [state for state, found in zip(states, known, strict=True) if found is None]
    rest = iter((yield from write(wanted)) if wanted else ())
    return [next(rest) if found is None else found for found in known]
