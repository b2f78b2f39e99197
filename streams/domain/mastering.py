"""Whose word counts: which source system masters which part of a profile. What nobody masters is local, and anybody's.

A part has a name: an attribute's, `segments`, `status` (enrolling included), `external_ids.<type>`. A pattern is a name, or its beginning and
`*`; the longest one that fits decides.
"""

from collections.abc import Iterable, Mapping

from schemas.contract import EXTERNAL_IDS_PREFIX, Command
from schemas.records import Enrolment, ProfileChange
from streams.domain.program import Program

LOCAL = "local"
"""In place of a master: what a wider pattern covers is local all the same."""

SEGMENTS, STATUS, EXTERNAL_IDS = "segments", "status", EXTERNAL_IDS_PREFIX


def master_of(mastering: Mapping[str, str], name: str) -> str | None:
    """The source system whose word alone counts for this part of a profile; None: it is local."""
    found, length = mastering.get(name), len(name) + 1
    if found is None:
        length = -1
        for pattern, source in mastering.items():
            if pattern.endswith("*") and len(pattern) > length and name.startswith(pattern[:-1]):
                found, length = source, len(pattern)
    return None if found == LOCAL else found


def names_of(command: Enrolment | ProfileChange) -> list[str]:
    """The parts of a profile that a command says something about, whether it would change them or not."""
    names = sorted(command.attributes)
    if isinstance(command, Enrolment):
        names += [SEGMENTS] * bool(command.segments) + [STATUS]
    else:
        names += [SEGMENTS] * (command.segments is not None) + [STATUS] * (command.status is not None)
    return names + [EXTERNAL_IDS + kind for kind in sorted(command.external_ids or ())]


def trespasses(program: Program, command: Command) -> list[tuple[str, str]]:
    """(name, master) of all that a command touches and another system masters. Not empty: the command is refused whole."""
    if not program.mastering or not isinstance(command, Enrolment | ProfileChange):
        return []
    masters = [(name, master_of(program.mastering, name)) for name in names_of(command)]
    return [(name, master) for name, master in masters if master is not None and master != command.source_system]


def told(trespassed: Iterable[tuple[str, str]]) -> str:
    """`email is mastered by salesforce; status is mastered by hr`: for people, and for programs that know the form."""
    return "; ".join(f"{name} is mastered by {master}" for name, master in trespassed)
