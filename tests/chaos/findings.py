"""What a verification has found: counted by kind, and the first few of each kind with their places."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

SAMPLES_MAX = 5  # Of each kind and partition: enough to study a cause, little enough to read.


@dataclass(frozen=True, slots=True)
class Sample:
    """One difference."""

    kind: str
    key: str
    place: str
    """topic[partition]@offset, table or folder."""
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.key} at {self.place}: expected {self.expected}, found {self.found}"


@dataclass(slots=True)
class Findings:
    """Differences. A kind that was looked for and not found stands here with 0."""

    counts: dict[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def looked_for(self, *kinds: str) -> None:
        for kind in kinds:
            self.counts.setdefault(kind, 0)

    def add(self, kind: str, key: str, place: str, expected: object = "", found: object = "", number: int = 1) -> None:
        so_far = self.counts.get(kind, 0)
        self.counts[kind] = so_far + number
        if sum(sample.kind == kind for sample in self.samples) < SAMPLES_MAX:
            self.samples.append(Sample(kind, key, place, str(expected), str(found)))

    def merge(self, others: Iterable["Findings"]) -> None:
        for other in others:
            for kind, number in other.counts.items():
                self.counts[kind] = self.counts.get(kind, 0) + number
            self.samples += other.samples

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> dict[str, object]:
        return {"differences": self.counts, "samples": [asdict(sample) for sample in self.samples]}
