"""Members' states -> hints to their phones, by Firebase Cloud Messaging: the app reads the balance again. A hint holds no points and no name.

Phones are attributes of the profile, `push_token.<device>`; one that the service does not know any more is taken out of it.
"""

import hashlib
from collections.abc import Sequence

import orjson

from schemas.contract import Command
from schemas.records import ProfileChange
from streams.connectors import values
from streams.connectors.contract import Answer, MemberState, Outcome, Request, Target, Writing, Written
from streams.errors import ContractError

COLLAPSE_KEY = "loyalty-account"


def write(target: Target, states: Sequence[MemberState], now_ms: int) -> Writing:
    found = []
    for state in states:
        phones = phones_of(target, state)
        accepted, problems, gone = 0, [], []
        for name, token in phones.items():
            answer = yield request(target, state, token)
            if answer.status == 200:
                accepted += 1
            elif _error(answer) == "UNREGISTERED":
                gone.append(_forget(target, state, name, token, now_ms))
            else:
                problems.append(f"{answer.status} {_error(answer)}".strip())
        commands: tuple[Command, ...] = tuple(gone)
        if accepted or not problems:
            reason = "" if accepted else "NO_PHONE"
            found.append(Written(outcome=Outcome.DONE if accepted else Outcome.SKIP, reason=reason, detail=", ".join(problems), commands=commands))
        else:
            found.append(Written(outcome=Outcome.PARK, reason="REFUSED", detail=", ".join(problems), commands=commands))
    return found


def phones_of(target: Target, state: MemberState) -> dict[str, str]:
    """Attribute -> token."""
    prefix = target.options["token_prefix"]
    return {name: token for name, token in sorted(state.attributes.items()) if name.startswith(prefix) and token}


def request(target: Target, state: MemberState, token: str) -> Request:
    data = {"type": "loyalty.account.changed", "program_id": state.program_id, "sequence": str(state.sequence)}
    message = {"token": token, "data": data, "android": {"collapse_key": COLLAPSE_KEY}, "apns": {"headers": {"apns-collapse-id": COLLAPSE_KEY}}}
    return Request(
        method="POST", url=f"/v1/projects/{target.options['project_id']}/messages:send", headers={"content-type": "application/json"},
        body=orjson.dumps({"message": message}),
    )  # fmt: skip


def _forget(target: Target, state: MemberState, name: str, token: str, now_ms: int) -> ProfileChange:
    digest = hashlib.sha256(token.encode()).hexdigest()[:16]
    return ProfileChange(
        program_id=state.program_id, member_id=state.member_id, event_id=f"{target.name}:{name}:{digest}:gone"[:128], source_system=target.name,
        occurred_at_ms=now_ms, attributes={name: None},
    )  # fmt: skip


def _error(answer: Answer) -> str:
    """The service's own code for what is wrong, UNREGISTERED for a phone that is gone; or else the status's name."""
    try:
        error = values.at(values.load(answer.body), "error")
        details = values.items(error, "details")
        codes = [code for one in details if str(values.at(one, "@type")).endswith("FcmError") and (code := values.text(one, "errorCode"))]
        return codes[0] if codes else (values.text(error, "status") or "")[:60]
    except ContractError:
        return ""
