"""Values of HTTP headers that senders and receivers of this project read. Pure."""

from datetime import UTC
from email.utils import parsedate_to_datetime


def retry_after_s(value: str, now_s: float) -> float | None:
    """The seconds that a Retry-After header asks for, in either of its forms; None if it is neither."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None
