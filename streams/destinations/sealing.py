"""Secrets of destinations, on their way to the log and back: sealed with the keys of LOYALTY_DESTINATION_KEYS (Fernet: AES-128-CBC and HMAC-SHA256).

The first key seals, all unseal: to change keys, put a new one in front, write each destination once (any change does), and take the old
one away.
"""

from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from streams.errors import ConfigurationError

SETTING = "LOYALTY_DESTINATION_KEYS"
ADVICE = "`loyalty destinations new-key` prints a key"


def new_key() -> str:
    """A fresh key, 32 random bytes in URL-safe base64."""
    return Fernet.generate_key().decode()


def seal(keys: str, text: str) -> str:
    """The text as only holders of a key can read it. `keys` is the setting. Raises ConfigurationError."""
    return _box(keys).encrypt(text.encode()).decode()


def unseal(keys: str, sealed: str) -> str:
    """The text that was sealed with any of the keys. Raises ConfigurationError, also for what was sealed with a key that is not there."""
    try:
        return _box(keys).decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise ConfigurationError(f"{SETTING} lacks the key with which a secret of a destination was sealed: keep old keys behind the new one.") from error


def check_keys(keys: str) -> None:
    """Raise ConfigurationError naming the keys, by their number, that are none. No keys at all are right where none are needed."""
    if keys:
        _box(keys)


@lru_cache(maxsize=4)
def _box(keys: str) -> MultiFernet:
    if not keys:
        raise ConfigurationError(f"{SETTING} is not set: without it, secrets of destinations can be neither kept nor read. {ADVICE}.")
    boxes, problems = [], []
    for number, key in enumerate(keys.split(","), start=1):
        try:
            boxes.append(Fernet(key.strip()))
        except ValueError:  # Its message may hold the key.
            problems.append(f"{SETTING}: key {number} is not 32 bytes in URL-safe base64. {ADVICE}.")
    if problems:
        raise ConfigurationError(*problems) from None
    return MultiFernet(boxes)
