"""The jars' cache: complete or absent, filled once, and the network left alone. The download itself is the session's own."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra import jars
from streams.errors import LoyaltyError

CONTENT = {"a-1.jar": b"a" * 100, "b-2.jar": b"b" * 200}


class Registry:
    """In the resolver's place: writes the files it was told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.content = dict(CONTENT)
        self.asked = 0
        self.error: Exception | None = None

    def resolve(self, endpoint: str, into: Path, on_progress: jars.OnProgress | None = None) -> list[Path]:
        self.asked += 1
        folder = into / "environment" / "jars"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.content.items():
            if on_progress:
                with jars._Reporter(on_progress).file(name, len(content)) as received:
                    received(len(content))
            (folder / name).write_bytes(content)
        if self.error:
            raise self.error
        return sorted(folder.iterdir())


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    lines = [f'"{n}" = {{ bytes = {len(c)}, sha256 = "{hashlib.sha256(c).hexdigest()}" }}' for n, c in CONTENT.items()]
    lock = tmp_path / "lock.toml"
    lock.write_text("\n".join([f'endpoint = "{jars.ENDPOINT}"', "[jars]", *lines]))
    made = Registry()
    monkeypatch.setattr(jars, "LOCK_FILE", lock)
    monkeypatch.setattr(jars, "resolve", made.resolve)
    jars.locked_jars.cache_clear()
    yield made
    jars.locked_jars.cache_clear()


def test_the_lock_file_is_that_of_the_pinned_versions() -> None:
    names = [jar.name for jar in jars.locked_jars()]
    assert f"kafka_2.13-{jars.KAFKA_VERSION}.jar" in names
    assert f"kafka-clients-{jars.KAFKA_VERSION}.jar" in names
    logging = [name for name in names if name.startswith("log4j")]
    assert logging == [f"log4j-{part}-{jars.LOG4J_VERSION}.jar" for part in ("api", "core", "slf4j-impl")]
    assert len({name.rpartition("-")[0] for name in names}) == len(names), "no jar in two versions"


def test_the_first_start_downloads_and_the_second_does_not(registry: Registry, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert not jars.are_cached(cache)
    seen: list[jars.Progress] = []
    paths = jars.class_path(cache, seen.append)
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert jars.are_cached(cache)
    assert seen[-1].total_bytes == 300 and seen[-1].jars_total == 2
    registry.error = AssertionError("the network was touched")
    assert jars.class_path(cache) == paths
    assert registry.asked == 1


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_cache_is_made_anew(registry: Registry, tmp_path: Path, damage: str) -> None:
    broken = jars.class_path(tmp_path / "cache")[1]
    if damage == "missing":
        broken.unlink()
    else:
        broken.write_bytes(b"b" * 7)
    assert [path.read_bytes() for path in jars.class_path(tmp_path / "cache")] == list(CONTENT.values())
    assert registry.asked == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a-1.jar": b"a" * 100, "b-2.jar": b"x" * 200}, "other content than expected in b-2.jar"),
        ({"a-1.jar": b"a" * 100}, "other jars than expected: b-2.jar"),
        ({**CONTENT, "c-3.jar": b"c"}, "other jars than expected: c-3.jar"),
    ],
)  # fmt: skip
def test_what_is_not_expected_never_gets_into_the_cache(
    registry: Registry, tmp_path: Path, content: dict[str, bytes], reason: str
) -> None:
    registry.content = content
    with pytest.raises(jars.JarsError, match=reason):
        jars.class_path(tmp_path / "cache")
    assert not jars.are_cached(tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    registry.content = dict(CONTENT)
    jars.class_path(tmp_path / "cache")


def test_without_network_the_error_says_what_to_do(registry: Registry, tmp_path: Path) -> None:
    registry.content, registry.error = {}, ConnectionError("name resolution failed")
    with pytest.raises(jars.JarsError) as error:
        jars.class_path(tmp_path / "cache")
    for part in (str(tmp_path / "cache"), "name resolution failed", "Connect to the network once", "HTTPS_PROXY", "copy that folder"):
        assert part in str(error.value)
    assert registry.asked == jars.ATTEMPTS_MAX


def test_a_download_that_breaks_off_once_is_tried_again(registry: Registry, tmp_path: Path) -> None:
    resolve = registry.resolve

    def failing_once(endpoint: str, into: Path, on_progress: jars.OnProgress | None) -> list[Path]:
        registry.error = ConnectionError("reset") if registry.asked == 0 else None
        return resolve(endpoint, into, on_progress)

    jars.resolve = failing_once  # The fixture puts the real one back.
    assert len(jars.class_path(tmp_path / "cache")) == 2
    assert registry.asked == 2


def test_the_one_who_watches_can_end_it(registry: Registry, tmp_path: Path) -> None:
    def stop(_: jars.Progress) -> None:
        raise LoyaltyError("enough")

    with pytest.raises(LoyaltyError, match="enough"):
        jars.class_path(tmp_path / "cache", stop)
    assert registry.asked == 1


def test_starts_at_the_same_time_download_once(registry: Registry, tmp_path: Path) -> None:
    # Left behind by a process that was killed.
    stale = tmp_path / "cache" / f"{jars._folder(tmp_path).name}.partial-x"
    stale.mkdir(parents=True)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: jars.class_path(tmp_path / "cache"), range(4)))
    assert all(paths == found[0] for paths in found)
    assert registry.asked == 1
    assert not stale.exists()
