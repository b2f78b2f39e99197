"""Workday: Get_Workers is asked for what was entered and for what takes effect; points go back into a custom object."""

import re

from streams.connectors import grants
from streams.connectors.contract import Connector, Grant, Option, Options, Poll, Push, Write
from streams.connectors.proof import by_password
from streams.connectors.worker_json import translate
from streams.connectors.workday import inbound, outbound, service

ELEMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


def _no_element(value: str) -> str:
    return "" if not value or ELEMENT.fullmatch(value) else "must be the name of an element"


_CONNECTION = (
    Option(name="base_url", doc="https://HOST of the tenant's web services.", is_required=True, is_url=True),
    Option(name="tenant", doc="Name of the tenant.", is_required=True),
    Option(name="version", doc="Version of the web services.", default="v45.2"),
    Option(name="user_name", doc="Integration system user, without @tenant: requests carry a UsernameToken."),
    Option(name="password", doc="Of that user.", is_secret=True),
    Option(name="client_id", doc="API client for integrations: OAuth 2.0 in place of a UsernameToken."),
    Option(name="client_secret", doc="Of the API client.", is_secret=True),
    Option(name="refresh_token", doc="Of the API client, without expiry; none: client credentials.", is_secret=True),
)


def _grant(options: Options) -> Grant | None:
    """None: requests carry a UsernameToken."""
    if options["user_name"] or not options["client_id"]:
        return None
    url = f"{options['base_url'].rstrip('/')}/ccx/oauth2/{options['tenant']}/token"
    client = {"url": url, "client_id": options["client_id"], "client_secret": options["client_secret"]}
    if options["refresh_token"]:
        return grants.refresh_token(**client, refresh_token=options["refresh_token"])
    return grants.client_credentials(**client)


CONNECTOR = Connector(
    kind="workday",
    title="Workday",
    source_options=(
        *_CONNECTION,
        Option(name="secret", doc="Password of the HTTP basic authentication of business processes' own JSON; empty: none is taken.", is_secret=True),
        Option(name="overlap_s", doc="How far a run reaches back behind the last one's begin, in seconds.", type=float, default=300.0),
        Option(name="look_ahead_hours", doc="How far ahead changes that are to take effect are read: the service's days are those of the Pacific.",
               type=float, default=24.0),
        Option(name="page_size", doc="Workers in one answer.", type=int, default=100),
        Option(name="employee_id_path", doc="Where the member's number stands in a Worker.", default="Worker_Data/Worker_ID"),
        Option(name="time_zone_path", doc="Where the worker's time zone stands (IANA name); empty: the member's attribute, or the programme's."),
        Option(name="field_map", doc="Attribute -> path in a Worker; empty: names and email.", type=dict, default={}),
    ),
    push=Push(authenticate=by_password, translate=translate, challenge={"WWW-Authenticate": 'Basic realm="loyalty"'}),
    polls={"workers": Poll(begin=inbound.poll, every_s=60.0)},
    target_options=(
        *_CONNECTION,
        Option(name="custom_object", doc="Element of the custom object; it must allow one instance only.", default="loyaltyBalance", wrong=_no_element),
        Option(name="custom_namespace", doc="Its namespace.", default="urn:com.workday/tenants/super/data/custom"),
        Option(name="points_field", doc="Element of the points.", default="points", wrong=_no_element),
        Option(name="tier_field", doc="Element of the tier; empty: not sent.", default="tier", wrong=_no_element),
        Option(name="sequence_field", doc="Element of the sequence; empty: not sent.", wrong=_no_element),
        Option(name="reference_type", doc="Type of the worker's reference that the member's number is.", default="Employee_ID"),
        Option(name="answer_name", doc="Element of a good answer.", default="Edit_Worker_Additional_Data_Response", wrong=_no_element),
    ),
    write=Write(begin=outbound.write, states_max=10),
    grant=_grant,
    judge=service.judged,
)  # fmt: skip
