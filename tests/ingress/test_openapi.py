"""openapi.yaml: valid, complete, true: its routes, rules and examples are those of the running service."""

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from schemas import avsc, contract
from schemas.records import MemberOperationKind, TransactionKind
from streams import topics
from streams.domain import refusals
from streams.domain.refusals import Refusal
from streams.connectors.cloudevents.inbound import TYPES
from streams.connectors.hr import inbound as hr
from streams.ingress import commands, rest
from streams.ingress.problems import TITLES
from tests.ingress.support import OPENAPI, Service, basic_headers, signed_headers, validator

SCHEMAS = OPENAPI["components"]["schemas"]
COMMANDS = [(topic, topic.record.__name__) for topic in topics.INBOUND]


def examples() -> list[Any]:
    """(path, media type, name, value) of every request example."""
    return [
        pytest.param(path, media_type, example["value"], id=f"{path}-{name}")
        for path, item in OPENAPI["paths"].items()
        for media_type, content in item.get("post", {}).get("requestBody", {}).get("content", {}).items()
        for name, example in content["examples"].items()
    ]


def test_it_is_valid() -> None:
    validate(OPENAPI)


@pytest.mark.stack
def test_it_names_every_route_and_no_other(service: Service) -> None:
    # SCIM documents itself, at /scim/v2/Schemas.
    routes = {(method, path) for method, path in service.routes() if not path.startswith("/scim/v2/")}
    assert routes == {(method, path) for path, item in OPENAPI["paths"].items() for method in item}


@pytest.mark.stack
async def test_it_is_served(service: Service) -> None:
    answer = await service.request("GET", "/v1/openapi.json", token=None)
    assert answer.json == json.loads(json.dumps(OPENAPI, default=str))
    assert (await service.request("GET", "/v1/openapi.yaml", token=None)).body.startswith(b"openapi: 3.1.0\n")


@pytest.mark.stack
async def test_the_page_to_read_loads_nothing_and_shows_everything(service: Service) -> None:
    answer = await service.request("GET", "/docs", token=None)
    page = answer.body.decode()
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "<script" not in page and not re.search(r'(?:src|href)="(?!#|/v1/openapi)', page)
    for path, item in OPENAPI["paths"].items():
        for method, operation in item.items():
            assert f'id="{operation["operationId"]}"><b>{method.upper()}</b> <code>{path}</code>' in page
    HTMLChecker().feed(page)


class HTMLChecker(HTMLParser):
    """Every element that was opened is closed, but for those that HTML closes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "tr", "td"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.stack
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_operations_are_served(service: Service, path: str) -> None:
    assert (await service.request("GET", path, token=None)).status == 200


@pytest.mark.parametrize(("path", "media_type", "value"), examples())
def test_an_example_keeps_its_own_schema(path: str, media_type: str, value: Any) -> None:
    validator(OPENAPI["paths"][path]["post"]["requestBody"]["content"][media_type]["schema"]).validate(value)


TOPICS = {f"/v1/{topic.stream}": topic for topic in topics.INBOUND}
COMMAND_EXAMPLES = [
    (TOPICS[path], item, f"{path}-{name}-{number}")
    for path in TOPICS
    for name, example in OPENAPI["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"].items()
    for number, item in enumerate(example["value"] if isinstance(example["value"], list) else [example["value"]])
]


@pytest.mark.parametrize(("topic", "value"), [pytest.param(topic, value, id=name) for topic, value, name in COMMAND_EXAMPLES])
def test_an_example_keeps_the_contract(topic: topics.Topic, value: Any) -> None:
    command = commands.parse(topic, value, commands.Defaults(source_system="docs", occurred_at_ms=1_795_318_800_000))
    assert contract.problems(command) == ()


def test_every_kind_of_command_has_an_example() -> None:
    seen = {(topic.stream, value.get("kind")) for topic, value, _ in COMMAND_EXAMPLES}
    expected: set[tuple[str, str | None]] = {("enrolments", None), ("profile-changes", None), ("offer-activations", None)}
    for stream, kinds in (("transactions", TransactionKind), ("member-operations", MemberOperationKind)):
        expected |= {(stream, kind.value) for kind in kinds if kind.value != "UNKNOWN"}
    assert seen == expected


def test_every_refusal_stands_in_the_document_with_its_meaning() -> None:
    """In the order of precedence, in the words of the code."""
    (body,) = (node.body for node in ast.parse(Path(refusals.__file__).read_text()).body if isinstance(node, ast.ClassDef))
    texts = [node.value.value for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)][1:]
    meanings = {code.value: one_line(re.sub(r" \(see \w+\)", "", str(text))) for code, text in zip(Refusal, texts, strict=True)}
    listed = re.findall(r"^\* `([A-Z_]+)`: (.+?)(?=\n\* |\n\n|\Z)", OPENAPI["info"]["description"], re.MULTILINE | re.DOTALL)
    assert [(code, one_line(text)) for code, text in listed] == list(meanings.items())


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.stack
@pytest.mark.parametrize(("path", "media_type", "value"), [one for one in examples() if not one.id.startswith("/v1/destinations")])
async def test_an_example_is_taken(service: Service, path: str, media_type: str, value: Any) -> None:
    if "{source}" not in path:
        answer = await service.request("POST", path, json=value)
        assert answer.status == (207 if isinstance(value, list) else 202), answer.body
        return
    body = json.dumps(value).encode()
    if "topic" in value:
        answer = await service.webhook("apaleo", body, basic_headers())
    else:
        source = "hr" if "employee_id" in value["data"] else "partner"
        answer = await service.webhook(source, body, signed_headers(body, "msg_e", media_type))
    assert answer.status == (200 if value["type"] == "healthcheck" else 202), answer.body


def test_the_examples_of_answers_keep_their_schemas() -> None:
    checked = 0
    responses = list(OPENAPI["components"]["responses"].values())
    responses += [response for item in OPENAPI["paths"].values() for one in item.values() for response in one["responses"].values()]
    for response in responses:
        for content in response.get("content", {}).values():
            values = [content["example"]] if "example" in content else [e["value"] for e in content.get("examples", {}).values()]
            for value in values:
                validator(content["schema"]).validate(value)
                checked += 1
    assert checked >= 6


@pytest.mark.parametrize(("topic", "name"), COMMANDS, ids=str)
def test_the_fields_of_a_command_are_those_of_its_record(topic: topics.Topic, name: str) -> None:
    fields = {field["name"].removesuffix("_ms"): field for field in avsc.load_all()[name]["fields"]}
    properties = {key: resolved(value) for key, value in SCHEMAS[name]["properties"].items()}
    assert set(properties) == set(fields)
    # What has no default in the record is required, but for what the ingress knows itself.
    assert set(SCHEMAS[name]["required"]) == {
        key for key, field in fields.items() if "default" not in field
    } - {"program_id", "source_system", "occurred_at", "transaction_id", "event_id"}
    for key, field in fields.items():
        symbols = next((one["symbols"] for one in branches(field["type"]) if isinstance(one, dict) and one["type"] == "enum"), None)
        if symbols:
            allowed = set(contract.STATUSES_SETTABLE) if key == "status" else set(symbols) - {"UNKNOWN"}
            assert {value for value in properties[key]["enum"] if value} == allowed
        is_time = any(isinstance(one, dict) and one.get("logicalType") == "timestamp-millis" for one in branches(field["type"]))
        assert (properties[key].get("format") == "date-time") == is_time


def resolved(schema: dict[str, Any]) -> Any:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def branches(avro: Any) -> list[Any]:
    return avro if isinstance(avro, list) else [avro]


def test_the_limits_are_those_of_the_contract() -> None:
    transaction, change = SCHEMAS["Transaction"]["properties"], SCHEMAS["ProfileChange"]["properties"]
    assert SCHEMAS["Id"]["maxLength"] == SCHEMAS["SourceSystem"]["maxLength"] == contract.ID_CHARACTERS_MAX
    assert SCHEMAS["ProgramId"]["pattern"] == f"^{contract.PROGRAM_ID.pattern}$"
    assert (transaction["points"]["maximum"], transaction["points"]["minimum"]) == (contract.POINTS_MAX, -contract.POINTS_MAX)
    assert transaction["amount_minor"]["maximum"] == contract.AMOUNT_MINOR_MAX
    assert transaction["nights"]["maximum"] == contract.NIGHTS_MAX
    assert transaction["line_items"]["maxItems"] == contract.LINE_ITEMS_MAX
    assert set(SCHEMAS["LineItem"]["properties"]) == {"sku", "category", "amount_minor", "quantity"}
    assert SCHEMAS["LineItem"]["properties"]["amount_minor"]["maximum"] == contract.AMOUNT_MINOR_MAX
    operation = SCHEMAS["MemberOperation"]["properties"]
    values = [*SCHEMAS["LineItem"]["properties"].values(), *transaction.values(), *operation.values(), change["status_reason"], change["actor"]]
    texts = [
        value for value in values
        if value.get("type") == ["string", "null"] and "format" not in value and value is not transaction["currency"]
    ]  # fmt: skip
    for member_id in (transaction["to_member_id"], operation["target_member_id"]):
        assert member_id["anyOf"] == [{"$ref": "#/components/schemas/Id"}, {"type": "null"}]
    assert {text["maxLength"] for text in texts} == {contract.TEXT_CHARACTERS_MAX}
    assert SCHEMAS["AttributeName"]["pattern"] == f"^{contract.ATTRIBUTE_NAME.pattern}$"
    assert set(SCHEMAS["AttributeName"]["not"]["enum"]) == contract.ATTRIBUTES_RESERVED
    assert SCHEMAS["Segments"]["maxItems"] == contract.SEGMENTS_MAX
    for attributes in (change["attributes"], SCHEMAS["Enrolment"]["properties"]["attributes"]):
        assert attributes["maxProperties"] == contract.ATTRIBUTES_MAX
        assert attributes["additionalProperties"]["maxLength"] == contract.ATTRIBUTE_CHARACTERS_MAX
    assert SCHEMAS["ExternalIdType"]["pattern"] == f"^{contract.EXTERNAL_ID_TYPE.pattern}$"
    for external_ids in (change["external_ids"], SCHEMAS["Enrolment"]["properties"]["external_ids"]):
        assert external_ids["maxProperties"] == contract.EXTERNAL_IDS_MAX
        assert external_ids["additionalProperties"]["maxLength"] == contract.EXTERNAL_ID_CHARACTERS_MAX


def test_names_and_numbers_of_the_code_are_those_of_the_document() -> None:
    text = json.dumps(OPENAPI)
    assert set(SCHEMAS["CloudEvent"]["properties"]["type"]["enum"]) == set(TYPES)
    assert set(SCHEMAS["HrEvent"]["properties"]["type"]["enum"]) == set(hr._MAKERS)
    assert set(SCHEMAS["Stream"]["enum"]) == {topic.stream for topic in topics.INBOUND}
    assert f'"maxItems": {rest.BULK_ITEMS_MAX}' in text and f"from 1 to {rest.WAIT_S_MAX}" in text
    assert {kind for kind in re.findall(r"urn:loyalty:([a-z-]+)", text)} <= set(TITLES)
