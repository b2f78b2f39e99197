"""settings -> a client of ClickHouse; and which of its errors are about the rows, and which about the server."""

from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DataError

from streams.settings import Settings

CONNECT_S = 5
ANSWER_S = 30  # A stop waits this long for an insert that hangs.
QUERY_BYTES_MAX = 2**24  # Names of a batch's members, at their longest; the server's default would be 256 KB.

# Errors that blame the rows. Sent again they would fail again, so the batch is halved until the bad rows are alone.
# All other errors blame the server or its setup, and are waited for: they pass, or an operator mends them.
DATA_ERRORS = frozenset({
    6, 26, 27, 32, 33, 38, 41, 72,  # cannot parse or read: text, number, date, to the end
    53, 69, 70, 117, 131, 321, 349,  # type mismatch, out of bounds, cannot convert, incorrect data, too large, null where none may be
    469, 691,  # violated constraint, unknown symbol of an enum
})  # fmt: skip


def connect(settings: Settings, database: str | None = "") -> Client:
    """A client of the settings' server and database ('' is the settings' own, None the server's default). Raises ClickHouseError."""
    url = urlsplit(settings.clickhouse_url)
    return clickhouse_connect.get_client(
        interface=url.scheme,
        host=url.hostname or "127.0.0.1",
        port=url.port or (8443 if url.scheme == "https" else 8123),
        proxy_path=url.path,
        username=settings.clickhouse_username,
        password=settings.clickhouse_password,
        database=settings.clickhouse_database if database == "" else database,
        ca_cert=settings.clickhouse_ca_file or None,
        compress=False,  # Batches are small for a local network; compressing them would cost more than sending them.
        connect_timeout=CONNECT_S,
        send_receive_timeout=ANSWER_S,
        query_retries=0,  # Our own loop retries, and says so.
        autogenerate_session_id=False,  # A session would allow one query at a time, and outlive a broken connection.
    )


def blames_rows(error: Exception) -> bool:
    """Whether the error is about what was sent, and so would return for ever."""
    return isinstance(error, DataError) or getattr(error, "code", None) in DATA_ERRORS


def without_values(error: Exception) -> str:
    """The error's number and name: ClickHouse's own text quotes the row, which may hold personal data."""
    return f"{getattr(error, 'name', None) or type(error).__name__} ({getattr(error, 'code', None)})"
