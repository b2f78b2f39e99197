"""SAP SuccessFactors: events of Intelligent Services are pushed, jobs are polled to find what they missed; points go out by OData upserts."""

from streams.connectors import grants
from streams.connectors.contract import Connector, Grant, Option, Options, Poll, Push, Read, Token, Write
from streams.connectors.proof import by_password
from streams.connectors.successfactors import inbound, outbound

_CONNECTION = (
    Option(name="base_url", doc="https://HOST of the API; empty, of a source: events alone, nobody is read again.", is_url=True),
    Option(name="company_id", doc="Of the tenant."),
    Option(name="client_id", doc="API key of the OAuth 2.0 client: a SAML assertion is signed for it."),
    Option(name="user", doc="Technical user in whose name is asked."),
    Option(name="private_key", doc="Of the client's certificate, PEM.", is_secret=True),
    Option(name="certificate", doc="The certificate, PEM."),
    Option(name="audience", doc="Audience of the assertion.", default="www.successfactors.com"),
    Option(name="recipient", doc="Recipient of the assertion; empty: the token endpoint."),
    Option(name="password", doc="Older tenants: HTTP Basic as user@company_id in place of a token.", is_secret=True),
)


def _grant(options: Options) -> Grant | Token | None:
    if options["password"]:
        return grants.basic(f"{options['user']}@{options['company_id']}", options["password"])
    if not options["client_id"]:
        return None
    return grants.SamlBearer(
        url=f"{options['base_url'].rstrip('/')}/oauth/token", client_id=options["client_id"], user=options["user"], private_key=options["private_key"],
        certificate=options["certificate"], audience=options["audience"], recipient=options["recipient"], fields={"company_id": options["company_id"]},
    )  # fmt: skip


CONNECTOR = Connector(
    kind="successfactors",
    title="SAP SuccessFactors",
    source_options=(
        *_CONNECTION,
        Option(name="secret", doc="Password of the HTTP basic authentication of pushed events; empty: none is taken.", is_secret=True),
        Option(name="employee_key", doc="Entity key, or parameter, of an event that is the member's number.", default="userId"),
        Option(name="employee_path", doc="Where a job holds the member's number.", default="userId"),
        Option(name="termination_day", doc="What the effectiveStartDate of a termination is.", default="first_day_off", choices=("first_day_off", "last_day")),
        Option(name="active_values", doc="Statuses of users, or of employments, that mean yes, in lower case.", type=list, default=["t", "e", "a"]),
        Option(name="field_map", doc="Attribute -> path in a job; empty: names and email of the user.", type=dict, default={}),
        Option(name="time_zone", doc="Where all work, as an IANA name; empty: the member's attribute, or the programme's."),
        Option(name="overlap_s", doc="How far a poll reaches back behind the last one's begin, in seconds.", type=float, default=300.0),
    ),
    push=Push(
        authenticate=by_password, translate=inbound.translate, accepted=inbound.accepted, refused=inbound.refused,
        challenge={"WWW-Authenticate": 'Basic realm="loyalty"'},
    ),
    read=Read(begin=inbound.read),
    polls={"jobs": Poll(begin=inbound.poll, every_s=3600.0, is_wanted=lambda source: bool(source.options["base_url"]))},
    target_options=(
        *_CONNECTION,
        Option(name="entity", doc="The MDF object of the points, or User.", default="cust_LoyaltyBalance"),
        Option(name="key_field", doc="Its key, which is the member's number: externalCode, or userId of User.", default="externalCode"),
        Option(name="points_field", doc="Field of the points that can be spent.", default="cust_points"),
        Option(name="tier_field", doc="Field of the tier; empty: not sent.", default="cust_tier"),
        Option(name="sequence_field", doc="Field of the sequence; empty: not sent.", default="cust_sequence"),
        Option(name="numbers_as_texts", doc="Whether numbers are sent as texts, as custom fields of User want them.", type=bool, default=False),
        Option(name="known_users_only", doc="Ask first who is a user, and write of nobody else: nothing is created for strangers.", type=bool, default=True),
        Option(name="retry_codes", doc="Codes of records that are tried again; all others above 299 are parked.", type=list,
               default=["408", "409", "412", "423", "429", "502", "503", "504"]),
    ),
    write=Write(begin=outbound.write, states_max=200),
    grant=_grant,
)  # fmt: skip
