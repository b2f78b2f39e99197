"""The mapping of a hotel system's postings, as loads in tests and benches use it."""


def postings(time_format: str, time_zone: str, *, columns: str = "", kinds: str = "", more: str = "") -> str:
    """TOML; `columns` and `kinds` are further lines of those tables, `more` is what comes at the end."""
    return f"""
id = "pms:{{folio}}"
[columns]
guest = "member_id"
posted = "occurred_at"
type = "kind"
total = "amount"
{columns or 'points = "points"'}
[constants]
currency = "EUR"
[kinds]
stay = "EARN"
reward = "REDEEM"
{kinds}
[times]
format = "{time_format}"
time_zone = "{time_zone}"
{more}
"""
