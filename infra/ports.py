"""Which port a server gets: the wanted one, or a free one when that is in use."""

import random
import socket
import threading

HOST = "127.0.0.1"
# Below the range from which the systems give outgoing connections their ports (Linux 32768, others 49152): a port from here is not
# taken by some client in the moment between our choice and the server's bind.
FREE_PORTS = range(20_000, 32_000)
ATTEMPTS_MAX = 200

_lock = threading.Lock()
_handed_out: set[int] = set()
_random = random.SystemRandom()  # Processes that start together must not choose alike.


def is_free(port: int) -> bool:
    """Whether a server can bind `port` on the loopback address now."""
    # A listener on all addresses blocks the port on Linux only, but would answer in our server's place elsewhere too.
    for address in (HOST, "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do: a port that a server has just left is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def choose(wanted: int = 0) -> int:
    """`wanted` if it is free and was not handed out before, else a free port; never the same one twice."""
    with _lock:
        if wanted and wanted not in _handed_out and is_free(wanted):
            _handed_out.add(wanted)
            return wanted
        for _ in range(ATTEMPTS_MAX):
            port = _random.choice(FREE_PORTS)
            if port not in _handed_out and is_free(port):
                _handed_out.add(port)
                return port
    raise OSError(f"No free port found among {FREE_PORTS.start} to {FREE_PORTS.stop - 1}")


def give_back(port: int) -> None:
    """Let `choose` hand out `port` again."""
    with _lock:
        _handed_out.discard(port)


def accepts(port: int, timeout_s: float = 1.0) -> bool:
    """Whether something accepts connections on `port`."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False
