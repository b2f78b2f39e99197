"""Errors as ClickHouse tells them: a code, a name and a text, and the HTTP status that goes with the code."""

import re

# HTTP status by ClickHouse's code, as the server answers; 500 for all others.
STATUSES = {
    **dict.fromkeys((26, 27, 38, 41, 62, 43, 69, 53, 6, 72, 117, 130, 131, 456, 457, 636), 400),
    **dict.fromkeys((164, 497), 403),
    **dict.fromkeys((46, 47, 16, 50, 56, 60, 73, 81, 115, 370, 372), 404),
    159: 408, 223: 413, 48: 501, 1: 501, 202: 503,
}  # fmt: skip

_CODE = re.compile(r"Code: (\d+)\.")


class QueryError(Exception):
    """An error of the engine or of the request, with ClickHouse's code and text."""

    def __init__(self, text: str) -> None:
        start = text.find("Code: ")
        found = _CODE.search(text)
        self.code = int(found.group(1)) if found else 1002  # UNKNOWN_EXCEPTION
        self.text = text[start:] if found else f"Code: 1002. DB::Exception: {text}. (UNKNOWN_EXCEPTION)"
        super().__init__(self.text)

    @property
    def status(self) -> int:
        return STATUSES.get(self.code, 500)


def refusal(code: int, name: str, detail: str) -> QueryError:
    """An error of this server's own, in ClickHouse's form."""
    return QueryError(f"Code: {code}. DB::Exception: {detail}. ({name})")
