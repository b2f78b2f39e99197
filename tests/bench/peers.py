"""What the peers need that this project does not: Quix Streams in an environment of its own, a compiled Java program. Made once, in the cache."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from infra import jars

QUIX = "quixstreams==3.28.0"
AVRO = "org.apache.avro:avro:1.12.0"
STREAMS = f"org.apache.kafka:kafka-streams:{jars.KAFKA_VERSION}"
SOURCE = Path(__file__).with_name("kafka_streams") / "Balances.java"
BUILD_TIMEOUT_S = 600


class PeerUnavailable(Exception):
    """This machine cannot run the peer. The message says what is missing."""


def quix_python() -> Path:
    """Python of the environment with Quix Streams. Raises PeerUnavailable."""
    folder = jars.cache_folder() / f"bench-{QUIX}-py{sys.version_info.major}.{sys.version_info.minor}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], "an environment for Quix Streams could not be made")
        _run([str(python), "-m", "pip", "install", "--quiet", QUIX, "fastavro"], f"{QUIX} could not be installed")
        ready.touch()
    return python


def kafka_streams_class_path() -> str:
    """Class path with the compiled program. Raises PeerUnavailable where no JDK is."""
    javac = shutil.which("javac")
    if javac is None:
        raise PeerUnavailable("no JDK: javac is not on the PATH")
    digest = hashlib.sha256(SOURCE.read_bytes() + STREAMS.encode() + AVRO.encode()).hexdigest()[:12]
    folder = jars.cache_folder() / f"bench-kafka-streams-{digest}"
    classes, ready = folder / "classes", folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        classes.mkdir(parents=True)
        broker = {path.name: path for path in jars.class_path()}
        try:
            for number, endpoint in enumerate((STREAMS, AVRO)):
                for path in jars.resolve(endpoint, folder / f"resolved-{number}"):
                    if path.name not in broker and not (folder / path.name).exists():
                        shutil.copy(path, folder / path.name)
        except Exception as error:
            raise PeerUnavailable(f"{STREAMS} could not be resolved: {type(error).__name__}: {error}") from error
        class_path = ":".join(str(path) for path in (*broker.values(), *folder.glob("*.jar")))
        _run([javac, "--release", "17", "-cp", class_path, "-d", str(classes), str(SOURCE)], f"{SOURCE.name} does not compile")
        ready.touch()
    return ":".join(str(path) for path in (classes, *jars.class_path(), *sorted(folder.glob("*.jar"))))


def _run(command: list[str], problem: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    if done.returncode:
        raise PeerUnavailable(f"{problem}: {(done.stderr or done.stdout).strip()[-500:]}")
