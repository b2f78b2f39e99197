"""Copies that are put into buckets come out of them whole, once, each member's in one bucket and in their order."""

from collections import defaultdict
from pathlib import Path

import pytest

from streams.agreement import buckets
from streams.agreement.buckets import Buckets, Copy
from streams.errors import LoyaltyError


def test_nothing_is_lost_and_a_member_stays_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "RECORDS", 100)
    monkeypatch.setattr(buckets, "BUFFER_BYTES_MAX", 1_000)
    monkeypatch.setattr(buckets, "BUFFER_BYTES_MIN", 1_000)
    put: dict[bytes, list[Copy]] = defaultdict(list)
    disk = Buckets(tmp_path, 1_000)
    for number in range(1_000):
        key = f"grand/M-{number % 37}-é".encode()
        copy = Copy(number % 8, key, None if number % 11 == 0 else bytes([number % 256]) * (number % 50), number % 3, number, 2**41 + number)
        disk.add(*copy)
        put[key].append(copy)
    found: dict[bytes, list[Copy]] = {}
    for number in range(disk.count):
        here: dict[bytes, list[Copy]] = defaultdict(list)
        for copy in disk.copies(number):
            here[copy.key].append(copy)
        assert not here.keys() & found.keys()
        found |= here
    assert disk.count == 10
    assert found == put
    assert list(tmp_path.iterdir()) == [], "what was looked at is removed"


def test_a_disk_that_fails_is_said(tmp_path: Path) -> None:
    disk = Buckets(tmp_path / "gone", 1)
    disk.add(1, b"grand/M-1", b"x")
    with pytest.raises(LoyaltyError, match="the disk for the comparison fails"):
        list(disk.copies(0))
