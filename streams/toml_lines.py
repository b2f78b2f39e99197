"""Text of a TOML file and a place in it (`programs.grand.tiers[1].name`) -> its line, for what people are told about the file."""

import re

Step = str | int
"""A key, or the number of an element."""
Path = tuple[Step, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STEP = re.compile(r"""\[(\d+)\]|\.?(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^.\[\]"']+))""")
_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*""")
_SKIPPED = re.compile(r"""(?:[ \t\r\n]|\#[^\n]*)*""")
# One piece of a value: a string in any of its four forms, a bracket, a comment, or what is none of them. The long forms come first.
_PIECE = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|[\[\]{}]|\n|[^"'\#\[\]{}\n]+''', re.DOTALL
)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def join(place: str, key: str) -> str:
    """The place of a key in the table at `place`; a key that is not plain is quoted, as the file would have it."""
    if not _BARE.fullmatch(key):
        key = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{place}.{key}" if place else key


def line_of(text: str, path: str) -> int | None:
    """Line, from 1, at which the place is in a TOML text; that of its closest ancestor if it is not there; None if none of them is.

    The text must be valid TOML. What is within inline tables and arrays of values counts to the key that they belong to.
    """
    return Lines(text).line_of(path)


class Lines:
    """The lines of all tables and keys of one text, found once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        """Arrays of tables -> elements so far."""
        self._scan()

    def line_of(self, path: str) -> int | None:
        """See the function of that name."""
        steps = _steps(path)
        while steps:
            if steps in self._lines:
                return self._lines[steps]
            steps = steps[:-1]
        return None

    def _scan(self) -> None:
        text = self._text
        table: Path = ()
        line, position = 1, 0
        while True:
            skipped = _SKIPPED.match(text, position)
            assert skipped is not None
            line += skipped.group().count("\n")
            position = skipped.end()
            if position >= len(text):
                return
            if text[position] == "[":
                is_array = text.startswith("[[", position)
                keys, position = _read_keys(text, position + 1 + is_array)
                position += 1 + is_array
                table = self._open(keys, line, is_array=is_array)
            else:
                keys, position = _read_keys(text, position)
                for count in range(1, len(keys) + 1):
                    self._lines.setdefault((*table, *keys[:count]), line)
                end = _end_of_value(text, position + 1)
                line += text.count("\n", position, end)
                position = end

    def _open(self, keys: tuple[str, ...], line: int, *, is_array: bool) -> Path:
        """Note a header. A table that others have named before gets the line of its own header."""
        path: Path = ()
        for key in keys[:-1]:
            path = (*path, key)
            self._lines.setdefault(path, line)
            if path in self._counts:  # A table below an array of tables belongs to the array's last element.
                path = (*path, self._counts[path] - 1)
        path = (*path, keys[-1])
        if not is_array:
            self._lines[path] = line
            return path
        self._lines.setdefault(path, line)
        number = self._counts.get(path, 0)
        self._counts[path] = number + 1
        self._lines[(*path, number)] = line
        return (*path, number)


def _steps(path: str) -> Path:
    found: list[Step] = []
    for match in _STEP.finditer(path):
        number, basic, literal, plain = match.groups()
        if number is not None:
            found.append(int(number))
        else:
            found.append(_unescaped(basic) if basic is not None else literal if literal is not None else plain)
    return tuple(found)


def _read_keys(text: str, position: int) -> tuple[tuple[str, ...], int]:
    """A key with all its dots, and where it ends."""
    keys: list[str] = []
    while True:
        match = _KEY.match(text, position)
        if match is None:
            raise ValueError(f"the text is not valid TOML at {text[position:position + 20]!r}")
        basic, literal, bare = match.groups()
        keys.append(_unescaped(basic) if basic is not None else literal if literal is not None else bare)
        position = match.end()
        if not text.startswith(".", position):
            return tuple(keys), position
        position += 1


def _end_of_value(text: str, position: int) -> int:
    """Where the value that begins there ends: at the end of a line outside all brackets."""
    depth = 0
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            raise ValueError(f"the text is not valid TOML at {text[position:position + 20]!r}")
        piece = match.group()
        if piece == "\n" and depth == 0:
            return position
        depth += (piece in ("[", "{")) - (piece in ("]", "}"))
        position = match.end()
    return position


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match.group(1)
        return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, code)

    return _ESCAPE.sub(one, text)
