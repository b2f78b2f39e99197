"""Whether a process answers over HTTP as it should."""

import urllib.error
import urllib.request

TIMEOUT_S = 2

# The user's proxy is for the world outside, not for our own processes.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers_ok(url: str) -> bool:
    """Whether GET `url` answers 200 within TIMEOUT_S."""
    try:
        with _direct.open(url, timeout=TIMEOUT_S) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):  # HTTP errors are OSErrors; ValueError is a broken answer.
        return False
