"""Kafka's jars -> a class path, from the user's cache folder; downloaded once from Maven Central.

`kafka_jars.toml` names every jar with its size and SHA-256. So a download that is cut short or not what it should be never gets into
the cache, and a start with a complete cache does not touch the network. After a change of a version below:

    python -m infra.jars lock

Stands apart from the pipeline: only the embedded stack needs it.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from streams.errors import LoyaltyError

# 4.4.0 needs kafka-tools-api 4.4.0, which could not be resolved when this was pinned.
KAFKA_VERSION = "4.3.1"
# Kafka brings log4j, but not what connects it to slf4j: without this one, a broker logs nothing. `!`: its parent must not choose the
# versions of the others (it would put kafka-clients 3.9 beside the broker).
LOG4J_VERSION = "2.25.4"
ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}!"

LOCK_FILE = Path(__file__).with_name("kafka_jars.toml")
HTTP_TIMEOUT_S = 30
REPORT_BYTES = 256 << 10  # One report of progress for this much.
ATTEMPTS_MAX = 3  # A download of 46 files over a home connection breaks off now and then.


class JarsError(LoyaltyError):
    """The jars are not there and cannot be fetched. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Jar:
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a download."""

    jars: int
    jars_total: int
    received_bytes: int
    total_bytes: int


OnProgress = Callable[[Progress], None]


def cache_folder() -> Path:
    """Where jars are kept, for all checkouts of this user."""
    return Path(user_cache_dir("loyalty-sync"))


@lru_cache(maxsize=1)
def locked_jars() -> tuple[Jar, ...]:
    """The jars of the lock file."""
    document = tomllib.loads(LOCK_FILE.read_text())
    if document["endpoint"] != ENDPOINT:
        raise JarsError(f"{LOCK_FILE.name} was made for {document['endpoint']}. Run: python -m infra.jars lock")
    return tuple(Jar(name, entry["bytes"], entry["sha256"]) for name, entry in document["jars"].items())


def are_cached(cache: Path | None = None) -> bool:
    """Whether `class_path` would need no network."""
    return _is_complete(_folder(cache or cache_folder()))


def class_path(cache: Path | None = None, on_progress: OnProgress | None = None) -> list[Path]:
    """All jars, as absolute paths, downloaded first if the cache does not have them. Raises JarsError.

    Any number of processes may call this at once: one downloads, the others wait for it. What is there is never changed in place, so
    a running broker is not disturbed. A LoyaltyError that `on_progress` raises ends the download.
    """
    cache = (cache or cache_folder()).resolve()
    folder = _folder(cache)
    if not _is_complete(folder):
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f"{folder.name}.lock"):
            if not _is_complete(folder):
                _fill(folder, on_progress)
    return [folder / jar.name for jar in locked_jars()]


def _folder(cache: Path) -> Path:
    """Named by content: another lock file never meets this one's jars."""
    digest = hashlib.sha256(LOCK_FILE.read_bytes()).hexdigest()[:12]
    return cache / f"kafka-{KAFKA_VERSION}-{digest}"


def _is_complete(folder: Path) -> bool:
    """By names and sizes: hashes were checked before the folder got its name, and take too long for every start."""
    try:
        return all((folder / jar.name).stat().st_size == jar.size_bytes for jar in locked_jars())
    except OSError:
        return False


@contextmanager
def _alone(lock_file: Path) -> Iterator[None]:
    """One process at a time; the system takes the lock back from one that dies."""
    with lock_file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fill(folder: Path, on_progress: OnProgress | None) -> None:
    """Download into a folder beside it, check every jar, then give it the name."""
    for stale in folder.parent.glob(f"{folder.name}.partial-*"):  # Of processes that were killed: we hold the lock.
        shutil.rmtree(stale, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        found = _download(partial / "download", on_progress)
        complete = partial / "complete"
        complete.mkdir()
        for jar in locked_jars():
            os.link(found[jar.name], complete / jar.name)
        if folder.exists():
            folder.rename(partial / "damaged")
        complete.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download(into: Path, on_progress: OnProgress | None) -> dict[str, Path]:
    """Name -> path of every jar of the lock file, with the right content. Raises JarsError."""
    wanted = {jar.name: jar for jar in locked_jars()}
    reason = ""
    for _ in range(ATTEMPTS_MAX):
        try:
            found = {path.name: path for path in resolve(ENDPOINT, into, on_progress)}
            reason = _difference(found, wanted)
            if not reason:
                return found
        except LoyaltyError:
            raise  # From `on_progress`, which may end the download that way.
        except Exception as error:  # The resolver lets through whatever its HTTP and XML libraries raise.
            reason = f"{type(error).__name__}: {error}"
        _drop_broken(into, wanted)
    size_mb = sum(jar.size_bytes for jar in wanted.values()) / 1e6
    raise JarsError(
        f"Kafka {KAFKA_VERSION} ({len(wanted)} jars, {size_mb:.0f} MB) is not in {into.parent.parent} yet and could not be downloaded from"
        f" Maven Central: {reason}\nConnect to the network once and start again (behind a proxy: set HTTPS_PROXY; with a mirror of your"
        " own: name it under [repositories] in jgo's settings file), or copy that folder from a machine that has it."
    )


def _difference(found: Mapping[str, Path], wanted: Mapping[str, Jar]) -> str:
    """Why `found` is not what the lock file says; empty when it is."""
    if found.keys() != wanted.keys():
        return f"other jars than expected: {', '.join(sorted(found.keys() ^ wanted.keys()))}"
    wrong = [name for name, jar in wanted.items() if _sha256(found[name]) != jar.sha256]
    return f"other content than expected in {', '.join(wrong)}" if wrong else ""


def _drop_broken(into: Path, wanted: Mapping[str, Jar]) -> None:
    """Remove the files that must not serve the next attempt: the resolver takes every file that it finds for complete."""
    for path in into.rglob("*.jar"):
        if path.name not in wanted or _sha256(path) != wanted[path.name].sha256:
            path.unlink()
    shutil.rmtree(into / "environment", ignore_errors=True)


def resolve(endpoint: str, into: Path, on_progress: OnProgress | None = None) -> list[Path]:
    """Download the endpoint's jars, with all that they need at run time. Raises whatever the resolver's HTTP and XML libraries raise.

    The library is imported here: a start with a complete cache needs none of it.
    """
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.env import EnvironmentBuilder, LinkStrategy
    from jgo.maven import MavenContext, PythonResolver

    # Repositories of the user come first: with a mirror, the one in the middle may be out of reach.
    repositories = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    resolver = PythonResolver(progress_callback=_Reporter(on_progress).file if on_progress else None)
    # Not the user's own Maven cache: files there may be broken, and other programs may be writing them now.
    context = MavenContext(resolver=resolver, repo_cache=into / "repository", remote_repos=repositories, timeout=HTTP_TIMEOUT_S)
    builder = EnvironmentBuilder(context, cache_dir=into / "environment", link_strategy=LinkStrategy.HARD)
    # Some land in its folder for modules, some in the one for classes. All belong on the class path.
    return list(builder.from_endpoint(endpoint).all_jars)


class _Reporter:
    """Adds up the files of a download."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._jars = 0
        self._received_bytes = 0
        self._reported_bytes = 0
        self._total_bytes = sum(jar.size_bytes for jar in locked_jars())

    @contextmanager
    def file(self, name: str, _size_bytes: int) -> Iterator[Callable[[int], None]]:
        is_jar = name.endswith(".jar")
        self._report()

        def received(count: int) -> None:
            if is_jar:
                self._received_bytes += count
                if self._received_bytes - self._reported_bytes >= REPORT_BYTES:
                    self._report()

        yield received
        self._jars += is_jar
        self._report()

    def _report(self) -> None:
        self._reported_bytes = self._received_bytes
        self._on_progress(Progress(self._jars, len(locked_jars()), self._received_bytes, self._total_bytes))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def render_lock() -> str:
    """The lock file for the versions above, from a fresh download."""
    with tempfile.TemporaryDirectory() as folder:
        jars = sorted(resolve(ENDPOINT, Path(folder)), key=lambda path: path.name)
        lines = [f'"{path.name}" = {{ bytes = {path.stat().st_size}, sha256 = "{_sha256(path)}" }}' for path in jars]
    head = "# Every jar that Kafka needs to run. Made by: python -m infra.jars lock"
    return "\n".join([head, f'endpoint = "{ENDPOINT}"', "", "[jars]", *lines, ""])


def main(arguments: list[str]) -> Any:
    if arguments != ["lock"]:
        return "usage: python -m infra.jars lock"
    LOCK_FILE.write_text(render_lock())
    print(f"{LOCK_FILE}: {len(locked_jars())} jars")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
