"""Redis -> the balances that it holds of some members."""

from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from sinks.redis_cache import ANSWER_S, balance_key
from streams.agreement.model import SNAPSHOT
from streams.errors import UnavailableError
from streams.settings import Settings

MEMBERS_MAX = 500  # One round trip.
NUMBERS = frozenset(name for name in SNAPSHOT if name.endswith("_points"))


class Cache:
    """Methods raise UnavailableError."""

    def __init__(self, settings: Settings) -> None:
        options: dict[str, Any] = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S, "decode_responses": True}
        if settings.redis_password:
            options["password"] = settings.redis_password
        if settings.redis_ca_file and settings.redis_url.startswith("rediss://"):
            options["ssl_ca_certs"] = settings.redis_ca_file
        self._redis: Redis = Redis.from_url(settings.redis_url, **options)
        self._prefix = settings.topic_prefix

    def balances(self, keys: Sequence[bytes]) -> list[tuple[int, list[Any]] | None]:
        """For each key its sequence and the values of SNAPSHOT; None where nothing is held, sequence -1 where it is no balance."""
        pipeline = self._redis.pipeline(transaction=False)
        for key in keys:
            program_id, _, member_id = key.decode().partition("/")
            pipeline.hmget(balance_key(self._prefix, program_id, member_id), "sequence", *SNAPSHOT)
        try:
            return [_balance(found) for found in pipeline.execute(raise_on_error=False)]
        except (RedisError, OSError) as error:
            raise UnavailableError(f"LOYALTY_REDIS_URL does not answer: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        self._redis.close()


def _balance(found: Any) -> tuple[int, list[Any]] | None:
    if isinstance(found, ResponseError):
        return -1, [None] * len(SNAPSHOT)
    if isinstance(found, Exception):
        raise found
    if all(value is None for value in found):
        return None
    try:
        return int(found[0] or -1), [_number(value) if name in NUMBERS else value for name, value in zip(SNAPSHOT, found[1:], strict=True)]
    except ValueError:
        return -1, found[1:]


def _number(value: str | None) -> int:
    return int(value or 0)  # Hashes from before there were several accounts lack some.
