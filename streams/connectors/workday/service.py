"""SOAP of Workday's web services: envelopes with or without a UsernameToken, answers and faults. Pure."""

from streams.connectors import xml_reader as xml
from streams.connectors.contract import Answer, Judgement, Options, Request, Verdict, judge
from streams.connectors.xml_reader import Element, escape
from streams.errors import ContractError

NAMESPACE = "urn:com.workday/bsvc"
_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
_SECURITY = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
_PASSWORD_TEXT = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordText"


class FaultError(ContractError):
    """The service understood the request and refuses it: what is in it, asked again, would be refused again."""


def request(options: Options, service: str, body: str, *, timeout_s: float = 60.0) -> Request:
    """One call of a service, "Human_Resources" or "Staffing". `body` is the element of the operation."""
    header = ""
    if options["user_name"]:
        user = escape(f"{options['user_name']}@{options['tenant']}")
        header = (
            f'<soapenv:Header><wsse:Security xmlns:wsse="{_SECURITY}" soapenv:mustUnderstand="1"><wsse:UsernameToken><wsse:Username>{user}</wsse:Username>'
            f'<wsse:Password Type="{_PASSWORD_TEXT}">{escape(options["password"])}</wsse:Password></wsse:UsernameToken></wsse:Security></soapenv:Header>'
        )
    text = f'<soapenv:Envelope xmlns:soapenv="{_ENVELOPE}">{header}<soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>'
    return Request(
        method="POST", url=f"/ccx/service/{options['tenant']}/{service}/{options['version']}",
        headers={"content-type": "text/xml; charset=utf-8", "accept": "text/xml"}, body=text.encode(), timeout_s=timeout_s,
    )  # fmt: skip


def judged(answer: Answer) -> Judgement:
    """A fault of validation comes as 500, and is an answer all the same."""
    if answer.status == 500 and _fault(answer.body) is not None:
        return Judgement(verdict=Verdict.PASS)
    return judge(answer)


def response(answer: Answer, name: str) -> Element:
    """The operation's element in an answer. Raises FaultError, and ContractError for what is no answer of the service."""
    fault = _fault(answer.body)
    if fault is not None:
        raise FaultError("WORKDAY_FAULT", fault)
    if answer.status != 200:
        raise ContractError("WORKDAY_REFUSED", f"the service answers {answer.status}")
    found = xml.find(xml.parse(answer.body), f"Body/{name}")
    if found is None:
        raise ContractError("WORKDAY_ANSWER", f"the answer has no {name}")
    return found


def _fault(body: bytes) -> str | None:
    """What a fault of validation says, without the values in it; None if the body is none."""
    try:
        found = xml.find(xml.parse(body), "Body/Fault")
    except ContractError:
        return None
    if found is None or "validationError" not in (xml.text_at(found, "faultcode") or ""):
        return None
    places = [place for error in xml.descendants(found, "Validation_Error") if (place := xml.text_at(error, "Xpath"))]
    return ": ".join(filter(None, ((xml.text_at(found, "faultstring") or "validation error")[:200], ", ".join(places)[:200])))
