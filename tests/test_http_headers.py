import pytest

from streams.http_headers import retry_after_s


@pytest.mark.parametrize(("value", "seconds"), [
    ("0", 0.0), ("120", 120.0), (" 7 ", 7.0), ("9999999999999", 999999999.0), ("Thu, 01 Jan 1970 00:17:40 GMT", 60.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ("Thu, 01 Jan 1970 00:17:40 -0000", 60.0), ("", None), ("-1", None), ("1.5", None), ("soon", None), ("٣", None), ("Thu, 99 Jan 1970 00:00:00 GMT", None),
])  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after_s(value, 1000.0) == seconds
