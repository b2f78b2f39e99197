"""The query string of a list -> its filters, and which page of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.contract import ID_CHARACTERS_MAX, Problem
from streams.history import Cursor, instant_ms

LIMIT, LIMIT_MAX = 50, 200
TEXT_CHARACTERS_MAX = 2 * ID_CHARACTERS_MAX
TIMES = ("since", "until")


@dataclass(slots=True)
class Asked:
    """What a query string says, as far as it is right, and what is wrong with it."""

    texts: dict[str, str] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    """since_ms, until_ms."""
    limit: int = LIMIT
    after: Cursor | None = None
    problems: list[Problem] = field(default_factory=list)


def read(given: Mapping[str, str], texts: Sequence[str], choices: Mapping[str, Sequence[str]]) -> Asked:
    """Filters that are texts or one of a few words, `since`, `until`, `limit` and `after`.

    A filter that is not known is a problem: without it the answer would say more than was asked.
    """
    asked, known = Asked(), (*texts, *choices, *TIMES, "limit", "after")
    asked.problems += [Problem("FIELD_UNKNOWN", name[:64], f"is not a filter; known are {', '.join(known)}") for name in given if name not in known]
    asked.texts = {name: given[name] for name in (*texts, *choices) if name in given}
    for name, text in asked.texts.items():
        if name in choices:
            if text not in choices[name]:
                asked.problems.append(Problem("VALUE_UNKNOWN", name, f"must be one of {', '.join(choices[name])}"))
        elif not 1 <= len(text) <= TEXT_CHARACTERS_MAX:
            asked.problems.append(Problem("ID_INVALID", name, f"must have 1 to {TEXT_CHARACTERS_MAX} characters"))
    for name in TIMES:
        if name in given:
            try:
                asked.times[f"{name}_ms"] = instant_ms(given[name])
            except ValueError:
                asked.problems.append(Problem("TIME_INVALID", name, "must be RFC 3339 with an offset, or a day, between 1970 and 2100"))
    text = given.get("limit", str(LIMIT))
    asked.limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= asked.limit <= LIMIT_MAX:
        asked.problems.append(Problem("TYPE_INVALID", "limit", f"must be a whole number from 1 to {LIMIT_MAX}"))
    if "after" in given:
        try:
            asked.after = Cursor.parse(given["after"])
        except ValueError:
            asked.problems.append(Problem("ID_INVALID", "after", "must be `next` of the page before"))
    return asked
