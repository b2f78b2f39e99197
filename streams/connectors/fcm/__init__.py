"""Firebase Cloud Messaging: members' phones are told that there is something new to read."""

from schemas.records import LoyaltyEventKind
from streams.connectors import grants
from streams.connectors.contract import ACCOUNT_KINDS, Connector, Grant, Option, Options, Write
from streams.connectors.fcm import outbound

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"


def _grant(options: Options) -> Grant:
    return grants.JwtBearer(
        url=options["token_url"], issuer=options["client_email"], subject=options["client_email"], audience=options["token_url"],
        private_key=options["private_key"], claims={"scope": SCOPE},
    )  # fmt: skip


CONNECTOR = Connector(
    kind="fcm",
    title="Mobile app (Firebase Cloud Messaging)",
    target_options=(
        Option(name="base_url", doc="Of the service.", default="https://fcm.googleapis.com", is_url=True),
        Option(name="token_url", doc="Where tokens come from.", default="https://oauth2.googleapis.com/token", is_url=True),
        Option(name="project_id", doc="Project of the app.", is_required=True),
        Option(name="client_email", doc="Of the service account.", is_required=True),
        Option(name="private_key", doc="Of the service account, PEM.", is_secret=True, is_required=True),
        Option(name="token_prefix", doc="How the names of the attributes begin that hold phones' tokens.", default="push_token."),
    ),
    write=Write(begin=outbound.write, states_max=10, wants_profile=True, kinds=ACCOUNT_KINDS | {LoyaltyEventKind.VOUCHER_ISSUED}),
    grant=_grant,
)  # fmt: skip
