import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from infra.fakes.fcm import FcmFake
from infra.fakes.server import Misbehaviour
from schemas.records import ProfileChange
from streams.connectors.contract import Answer, Grant, Outcome
from streams.connectors.fcm import CONNECTOR, outbound
from streams.errors import ContractError
from tests.connectors.support import NOW_MS, asked, state_of, target_of, write_fake, written

UNREGISTERED = (
    b'{"error":{"code":404,"status":"NOT_FOUND","message":"Requested entity was not found.","details":['
    b'{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNREGISTERED"}]}}'
)


@pytest.fixture
async def service() -> AsyncIterator[FcmFake]:
    fake = FcmFake()
    await fake.start()
    yield fake
    await fake.stop()


def target(**options: Any) -> Any:
    return target_of(CONNECTOR, **{"project_id": "fake-project", "client_email": "a@example.com", "private_key": "", **options})


def state(**attributes: str) -> Any:
    return state_of("M-1", attributes={name.replace("__", "."): value for name, value in attributes.items()})


def test_a_hint_says_that_there_is_news_and_nothing_else() -> None:
    request = next(outbound.write(target(), [state(push_token__phone="abc:1", given_name="Ada")], NOW_MS))
    assert request.url == "/v1/projects/fake-project/messages:send"
    message = orjson.loads(request.body or b"")["message"]
    assert (message["token"], message["data"]) == ("abc:1", {"type": "loyalty.account.changed", "program_id": "staff", "sequence": "418"})
    assert b"1250" not in (request.body or b"") and b"Ada" not in (request.body or b"")


def test_a_phone_that_is_gone_is_forgotten() -> None:
    _, (found,) = written(outbound.write(target(), [state(push_token__a="abc:1", push_token__b="abc:2")], NOW_MS), [
        Answer(status=404, body=UNREGISTERED), Answer(status=200, body=b"{}"),
    ])  # fmt: skip
    assert found.outcome is Outcome.DONE
    (change,) = found.commands
    assert isinstance(change, ProfileChange) and change.attributes == {"push_token.a": None} and change.member_id == "M-1"


@pytest.mark.parametrize(
    ("answers", "outcome", "reason"),
    [([], Outcome.SKIP, "NO_PHONE"), ([(404, UNREGISTERED)], Outcome.SKIP, "NO_PHONE"), ([(400, b"<html>")], Outcome.PARK, "REFUSED"),
     ([(400, b"{}"), (200, b"{}")], Outcome.DONE, "")],
)  # fmt: skip
def test_what_becomes_of_a_hint(answers: list[tuple[int, bytes]], outcome: Outcome, reason: str) -> None:
    phones = {f"push_token__{number}": f"abc:{number}" for number in range(len(answers))}
    _, (found,) = written(outbound.write(target(), [state(**phones)], NOW_MS), [Answer(status=status, body=body) for status, body in answers])
    assert (found.outcome, found.reason) == (outcome, reason)


async def test_with_the_service(service: FcmFake) -> None:
    ours = target(
        base_url=service.base_url, token_url=service.token_url, project_id=service.project_id, client_email=service.client_email,
        private_key=service.private_key,
    )  # fmt: skip
    grant = CONNECTOR.grant(ours.options)
    assert grant is not None and hasattr(grant, "request")
    token = _token(grant, await asked(service, grant.request(time.time())))
    headers = {"Authorization": f"Bearer {token}"}
    phone, gone = service.add_phone(), service.add_phone()
    service.uninstall(gone)
    (found,) = await write_fake(service, outbound.write(ours, [state(push_token__a=phone, push_token__b=gone)], NOW_MS), headers)
    assert found.outcome is Outcome.DONE and len(found.commands) == 1
    assert service.messages == {phone: [{"type": "loyalty.account.changed", "program_id": "staff", "sequence": "418"}]}
    (refused,) = await write_fake(service, outbound.write(ours, [state(push_token__a="nonsense")], NOW_MS), headers)
    assert (refused.outcome, refused.detail) == (Outcome.PARK, "400 INVALID_ARGUMENT")
    service.misbehaviours.append(Misbehaviour(refuses_token=True))
    assert (await asked(service, outbound.request(ours, state(), phone), headers)).status == 401
    other = target(token_url=service.token_url, client_email="b@example.com", private_key=service.private_key)
    wrong = CONNECTOR.grant(other.options)
    assert wrong is not None and hasattr(wrong, "request")
    with pytest.raises(ContractError):
        _token(wrong, await asked(service, wrong.request(time.time())))


def _token(grant: Grant, answer: Answer) -> str:
    return grant.token(answer).value
