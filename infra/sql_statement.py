"""SQL text -> what an HTTP interface must know of it before the engine runs it. Pure: no engine, no IO.

ClickHouse sends an INSERT and its data in one stream: `INSERT INTO t FORMAT CSV` and then rows, megabytes of them. So the
statement has to be found in the first bytes, without reading the rest.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from infra.clickhouse_errors import refusal

_TOKEN = re.compile(
    rb"""
      (?P<space>   \s+ | --[^\n]* | \#[!\ ][^\n]* | /\*.*?\*/ )
    | (?P<text>    '(?:[^'\\]|\\.|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<quoted>  "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` )
    | (?P<word>    [A-Za-z_\x80-\xff][\w\x80-\xff]* )
    | (?P<number>  \d[\w.]* )
    | (?P<mark>    . )
    """,
    re.VERBOSE | re.DOTALL,
)

# These answer with a result set, even if it has no rows; all other statements answer with nothing.
_SELECT_KEYWORDS = frozenset({"SELECT", "WITH", "FROM", "("})
_RESULT_KEYWORDS = frozenset({"SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK", "KILL"})
# An INSERT that reaches one of these before VALUES or FORMAT brings no data of its own.
_INSERT_SOURCES = frozenset({"SELECT", "WITH", "FROM", "WATCH", "EXPLAIN"})
# A quote that stands alone has its partner in bytes that are not here yet.
_QUOTES = frozenset("'\"`")
# Nor is there a statement that starts with one of these: it is a comment whose end is not here yet.
_COMMENT_MARKS = frozenset("/-#")


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    """Upper case for words; only words and marks are ever compared."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without data."""

    sql: bytes
    """Without its FORMAT clause and a closing semicolon."""
    keyword: str
    """First word in upper case, or the mark it starts with."""
    output_format: str | None
    """Format that the statement itself asks for."""
    has_totals: bool

    @property
    def is_select(self) -> bool:
        return self.keyword in _SELECT_KEYWORDS

    @property
    def has_result(self) -> bool:
        """Whether the statement answers with a result set."""
        return self.is_select or self.keyword in _RESULT_KEYWORDS


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT whose data follow in the same stream."""

    sql: bytes
    """Up to, and without, VALUES or FORMAT."""
    input_format: str
    data_start: int
    """Where the data begin in the bytes that were looked at."""

    def from_file(self, path: str) -> bytes:
        """The same INSERT, with its data in a file of the server's."""
        depth, place, comma = 0, len(self.sql), b" SETTINGS "
        for token in _tokens(self.sql):
            depth += (token.text == "(") - (token.text == ")")
            if depth == 0 and token.kind == "word" and token.text == "SETTINGS":
                place, comma = token.start, b", "
        # Mapped into memory, as by default, the whole file would count as the engine's.
        read_method = comma + b"storage_file_read_method = 'pread'"
        quoted = path.replace("\\", "\\\\").replace("'", "\\'").encode()
        parts = (self.sql[:place].rstrip(), b" FROM INFILE '", quoted, b"' ", self.sql[place:], read_method, b" FORMAT ", self.input_format.encode())
        return b"".join(parts)


class Undecided(StrEnum):
    NOT_AN_INSERT = "NOT_AN_INSERT"
    """The bytes are a statement without data: see `statement`."""
    MORE_BYTES_NEEDED = "MORE_BYTES_NEEDED"


def _tokens(sql: bytes) -> Iterator[Token]:
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or ""
        if kind == "tag":  # A group within a group: the outer one is meant.
            kind = "text"
        if kind != "space":
            text = match.group().decode(errors="replace") if kind in ("word", "mark") else ""
            yield Token(kind, text.upper(), match.start(), match.end())


def insert(head: bytes, *, complete: bool) -> Insert | Undecided:
    """The INSERT at the start of `head`, if it is one that brings data. `complete` says that nothing follows `head`."""
    more = Undecided.NOT_AN_INSERT if complete else Undecided.MORE_BYTES_NEEDED
    tokens = _tokens(head)
    first = next(tokens, None)
    if first is None or (first.end == len(head) and first.kind == "word") or first.text in _COMMENT_MARKS:
        return more
    if first.text != "INSERT":
        return Undecided.NOT_AN_INSERT
    depth = 0
    for token in _after_table_name(tokens):
        depth += (token.text == "(") - (token.text == ")")
        if token.end == len(head) or token.text in _QUOTES:
            if not complete:
                return Undecided.MORE_BYTES_NEEDED
        if depth or token.kind != "word":
            continue
        if token.text in _INSERT_SOURCES:
            return Undecided.NOT_AN_INSERT
        if token.text == "VALUES":
            return Insert(head[: token.start].rstrip(), "Values", token.end)
        if token.text == "FORMAT":
            return _insert_with_format(head, token, next(tokens, None), complete=complete)
    return more


def _after_table_name(tokens: Iterator[Token]) -> Iterator[Token]:
    """The tokens behind INTO [TABLE] [FUNCTION] and a name, which may itself be called `values` or `format`."""
    token = next(tokens, None)
    while token and token.text in ("INTO", "TABLE", "FUNCTION"):
        token = next(tokens, None)
    while (dot := next(tokens, None)) and dot.text == ".":
        next(tokens, None)
    if dot:
        yield dot
        yield from tokens


def _insert_with_format(head: bytes, keyword: Token, name: Token | None, *, complete: bool) -> Insert | Undecided:
    if name is None or name.kind != "word":
        return Undecided.NOT_AN_INSERT if complete or name else Undecided.MORE_BYTES_NEEDED
    # Data start behind the first line break, if only blanks come before it; else behind the blanks: ClickHouse's own rule.
    blanks = re.compile(rb"[ \t\f]*(\r?\n)?").match(head, name.end)
    start = blanks.end() if blanks else name.end
    if len(head) - start < len("\r\n") and not complete and not (blanks and blanks.group(1)):
        return Undecided.MORE_BYTES_NEEDED
    return Insert(head[: keyword.start].rstrip(), head[name.start : name.end].decode(), start)


def statement(sql: bytes) -> Statement:
    """What `sql` is. Raises QueryError for an empty text, several statements, and files on the server's side."""
    tokens = list(_tokens(sql))
    end = next((i for i, token in enumerate(tokens) if token.text == ";"), len(tokens))
    if any(token.text != ";" for token in tokens[end:]):
        raise refusal(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
    if not tokens[:end]:
        raise refusal(62, "SYNTAX_ERROR", "Syntax error: Empty query")
    tokens, stop = tokens[:end], tokens[end].start if end < len(tokens) else len(sql)
    words = [token.text for token in tokens]
    for i in range(len(words) - 1):
        if (words[i], words[i + 1]) in (("INTO", "OUTFILE"), ("FROM", "INFILE")):
            # Over HTTP the file would be the server's, which is never what is meant.
            raise refusal(1, "UNSUPPORTED_METHOD", f"{words[i]} {words[i + 1]} is not supported over HTTP")
    place = _format_clause(tokens)
    output_format = None
    text = sql[:stop]
    if place is not None:
        clause, name = tokens[place], tokens[place + 1]
        output_format = sql[name.start : name.end].decode()
        text = sql[: clause.start] + sql[name.end : stop]
    return Statement(
        sql=text.strip(),
        keyword="INSERT" if words[0] == "WITH" and "INSERT" in words else words[0],
        output_format=output_format,
        has_totals=any(words[i : i + 2] == ["WITH", "TOTALS"] for i in range(len(words))),
    )


def _format_clause(tokens: list[Token]) -> int | None:
    """Index of the FORMAT that closes the statement: outside parentheses, followed by a name and by nothing else but SETTINGS."""
    depth = 0
    found = None
    for i, token in enumerate(tokens):
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0 and token.text == "FORMAT" and i > 0 and i + 1 < len(tokens) and tokens[i + 1].kind == "word":
            rest = tokens[i + 2 : i + 3]
            found = i if not rest or rest[0].text == "SETTINGS" else found
    return found
