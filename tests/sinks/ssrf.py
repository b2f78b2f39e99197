"""The corpus of addresses and hosts that a webhook must not reach, for the judgement alone and for the transport."""

import json
import socket
from pathlib import Path
from typing import Any

CORPUS: dict[str, Any] = json.loads((Path(__file__).parent / "ssrf_corpus.json").read_text())
BLOCKED_ADDRESSES: list[str] = [text for texts in CORPUS["blocked_addresses"].values() for text in texts]
PUBLIC_ADDRESSES: list[str] = CORPUS["public_addresses"]
BLOCKED_HOSTS: list[str] = [text for texts in CORPUS["blocked_hosts"].values() for text in texts]
MEANINGLESS_HOSTS: list[str] = CORPUS["meaningless_hosts"]
NAMES: dict[str, list[str]] = CORPUS["names"]


async def resolve(host: str) -> list[str]:
    """As an operating system would: the corpus's names, and what it takes for an address without asking anybody."""
    known = NAMES.get(host.rstrip(".").lower())
    return known or [str(socket.getaddrinfo(host.rstrip("."), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4][0])]
