"""Darwinbox: its employee API is polled by the time of modification; any step that can call a URL may push; points go into employees' attributes."""

from streams.connectors import grants
from streams.connectors.contract import Connector, Grant, Option, Options, Poll, Push, Token, Write
from streams.connectors.darwinbox import inbound, outbound
from streams.connectors.proof import by_password

_CONNECTION = (
    Option(name="base_url", doc="https://DOMAIN of the tenant.", is_required=True, is_url=True),
    Option(name="client_id", doc="Of the API's token endpoint."),
    Option(name="client_secret", doc="Of the client.", is_secret=True),
    Option(name="grant_type", doc="What the token endpoint wants as grant_type.", default="authorization_code"),
    Option(name="code", doc="The code that the token endpoint wants.", is_secret=True),
    Option(name="user_name", doc="Older tenants: HTTP Basic in place of a token."),
    Option(name="password", doc="Of that user.", is_secret=True),
    Option(name="api_key", doc="Older tenants: key in every body.", is_secret=True),
    Option(name="employee_id_field", doc="Field of the member's number.", default="employee_id"),
)


def _grant(options: Options) -> Grant | Token | None:
    """Older tenants have users; of those with tokens, the header is TOKEN."""
    if options["user_name"]:
        return grants.basic(options["user_name"], options["password"])
    if not options["client_id"]:
        return None
    return grants.DarwinboxToken(
        url=f"{options['base_url'].rstrip('/')}/oauth/v1token", client_id=options["client_id"], client_secret=options["client_secret"],
        grant_type=options["grant_type"], code=options["code"],
    )  # fmt: skip


CONNECTOR = Connector(
    kind="darwinbox",
    title="Darwinbox",
    source_options=(
        *_CONNECTION,
        Option(name="secret", doc="Password of the HTTP basic authentication of pushed JSON; empty: none is taken.", is_secret=True),
        Option(name="dataset_key", doc="Key of the dataset of employees.", is_secret=True),
        Option(name="inactive_dataset_key", doc="Key of a dataset that holds those who have left, if they are not in the other one.", is_secret=True),
        Option(name="overlap_s", doc="How far a run reaches back behind the last one's begin, in seconds.", type=float, default=300.0),
        Option(name="first_since", doc="What the first run reads: modified since, as 31-12-2025 00:00:00.", default="01-01-1990 00:00:00"),
        Option(name="time_zone", doc="Of times in requests and answers.", default="Asia/Kolkata"),
        Option(name="field_map", doc="Attribute -> field of the dataset; empty: names and email.", type=dict, default={}),
        Option(name="status_field", doc="Field that says whether somebody works here; a record without it is of somebody who does.", default="employee_status"),
        Option(name="active_values", doc="Its values that mean yes, in lower case.", type=list, default=["active", "1", "true"]),
        Option(name="hired_field", doc="Field of the first day.", default="date_of_joining"),
        Option(name="last_day_field", doc="Field of the last day.", default="date_of_exit"),
        Option(name="reason_field", doc="Field of why somebody leaves; empty: none.", default="separation_reason"),
        Option(name="modified_field", doc="Field of the time of modification; empty: the time of the run is the version.", default="last_modified"),
        Option(name="time_zone_field", doc="Field of the place's IANA time zone; empty: none."),
        Option(name="empty_messages", doc="Parts of messages, in lower case, by which the API says that nothing was modified.", type=list,
               default=["no record", "no data", "not found"]),
    ),
    push=Push(authenticate=by_password, translate=inbound.translate, challenge={"WWW-Authenticate": 'Basic realm="loyalty"'}),
    polls={"employees": Poll(begin=inbound.poll, every_s=60.0, is_wanted=lambda source: bool(source.options["dataset_key"]))},
    target_options=(
        *_CONNECTION,
        Option(name="points_attribute", doc="Attribute of the points.", default="loyalty_points"),
        Option(name="tier_attribute", doc="Attribute of the tier; empty: not sent.", default="loyalty_tier"),
        Option(name="sequence_attribute", doc="Attribute of the sequence; empty: not sent."),
    ),
    write=Write(begin=outbound.write, states_max=100),
    grant=_grant,
)  # fmt: skip
