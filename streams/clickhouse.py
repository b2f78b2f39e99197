"""Rows of a query, one by one, over ClickHouse's HTTP interface: for those that only read. The sink writes with clickhouse-connect."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp

from streams.errors import UnavailableError
from streams.settings import Settings

ROW_BEGINNINGS = (b"{", b"[")


async def rows(
    session: aiohttp.ClientSession, settings: Settings, query: str, values: Mapping[str, str | Sequence[str]] | None = None, *,
    form: str = "JSONEachRow", **options: str,
) -> AsyncIterator[bytes]:  # fmt: skip
    """Each row as JSON, as it arrives: an object, or for JSONCompactEachRow an array. Times are ISO 8601, 64-bit numbers numbers.

    `values` are the query's parameters, `{name:String}` in it, or for several texts `{name:Array(String)}`; `options` are settings of
    ClickHouse's. Raises UnavailableError, also when the answer breaks off.
    """
    parameters = {
        "database": settings.clickhouse_database,
        "default_format": form,
        "output_format_json_quote_64bit_integers": "0",
        "date_time_output_format": "iso",
        **options,
    }
    # A form, because lists of ids are longer than an address may be.
    body = aiohttp.FormData({"query": query} | {f"param_{name}": _escaped(value) for name, value in (values or {}).items()}, default_to_multipart=True)
    headers = {"X-ClickHouse-User": settings.clickhouse_username, "X-ClickHouse-Key": settings.clickhouse_password}
    context = ssl.create_default_context(cafile=settings.clickhouse_ca_file or None) if settings.clickhouse_url.startswith("https:") else True
    where = f"LOYALTY_CLICKHOUSE_URL={settings.clickhouse_url}"
    try:
        url = f"{settings.clickhouse_url.rstrip('/')}/"
        async with session.post(url, params=parameters, headers=headers, data=body, ssl=context) as response:
            if response.status != 200:
                said = (await response.text()).strip().partition("\n")[0]
                raise UnavailableError(f"ClickHouse at {where} answers {response.status}: {said[:300]}")
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield _checked(line, where)
            if rest:
                yield _checked(rest, where)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise UnavailableError(f"no ClickHouse answers at {where}: {type(error).__name__}: {error}") from error


def _escaped(value: str | Sequence[str]) -> str:
    """A value as ClickHouse reads it of a parameter: a field of TSV. In an array each text is quoted, and escaped once all the same."""
    if not isinstance(value, str):
        return "[" + ",".join("'" + _escaped(one).replace("'", "\\'") + "'" for one in value) + "]"
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _checked(line: bytes, where: str) -> bytes:
    """A row. An error in the middle of an answer comes as a line of text, and must not pass for one."""
    if not line.startswith(ROW_BEGINNINGS):
        raise UnavailableError(f"ClickHouse at {where} broke off its answer: {line[:200].decode(errors='replace')}")
    return line
