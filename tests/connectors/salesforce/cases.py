"""What the tests of this connector share: recorded payloads, sources and targets, change events."""

from pathlib import Path
from typing import Any

import orjson

from streams.connectors.contract import Delivery, Source, Target
from streams.connectors.salesforce import CONNECTOR
from tests.connectors.support import NOW_MS, source_of, target_of

PAYLOADS = Path(__file__).parent / "payloads"
RECORD_ID = "0035f00000AbCdEAAV"
COMMIT = 10_716_283_339_728
COMMITTED_AT_MS = 1_760_000_000_000
KEY = "0002343d-9d90-e395-ed20-cf416ba652ad"
TOPIC = "/data/ContactChangeEvent"
PURCHASES = "/event/Loyalty_Purchase__e"
CONNECTION = {"client_id": "fake-consumer-key", "client_secret": "fake-consumer-secret"}


def source(**options: Any) -> Source:
    return source_of(CONNECTOR, **{**CONNECTION, **options})


def target(**options: Any) -> Target:
    return target_of(CONNECTOR, **{**CONNECTION, **options})


def recorded(name: str) -> bytes:
    return (PAYLOADS / name).read_bytes()


def delivery(body: bytes, **query: str) -> Delivery:
    return Delivery(body=body, headers={}, query=query, received_at_ms=NOW_MS)


def payload(kind: str, fields: dict[str, Any] | None = None, **header: Any) -> dict[str, Any]:
    """A change event in its JSON form."""
    known = {
        "entityName": "Contact", "recordIds": [RECORD_ID], "changeType": kind, "changeOrigin": "com/salesforce/api/rest/62.0", "transactionKey": KEY,
        "sequenceNumber": 1, "commitTimestamp": COMMITTED_AT_MS, "commitNumber": COMMIT, "commitUser": "0055f000005mc66AAA", "nulledFields": [],
        "diffFields": [], "changedFields": list(fields or {}),
    }  # fmt: skip
    return {"ChangeEventHeader": known | header, **(fields or {})}


def relayed(kind: str, fields: dict[str, Any] | None = None, **header: Any) -> Delivery:
    return delivery(orjson.dumps({"schema": "IeRuaY6cbI_HsV8Rv1Mc5g", "payload": payload(kind, fields, **header), "event": {"replayId": 8052880}}))
