"""Apaleo: unsigned webhooks hint at reservations; what the reservation's own answer says decides."""

from streams.connectors import grants, stays
from streams.connectors.apaleo import inbound
from streams.connectors.contract import Connector, Grant, Option, Options, Push, Read
from streams.connectors.proof import by_password


def _grant(options: Options) -> Grant:
    return grants.client_credentials(
        url=options["identity_url"], client_id=options["client_id"], client_secret=options["client_secret"], secret_in_body=True
    )


CONNECTOR = Connector(
    kind="apaleo",
    title="Apaleo",
    source_options=(
        Option(name="secret", doc="Password of the HTTP basic authentication in the subscription's address.", is_secret=True, is_required=True),
        Option(name="base_url", doc="Of the API, as https://api.apaleo.com.", is_required=True, is_url=True),
        Option(name="identity_url", doc="Token endpoint, as https://identity.apaleo.com/connect/token.", is_required=True, is_url=True),
        Option(name="client_id", doc="OAuth 2.0 client.", is_required=True),
        Option(name="client_secret", doc="Of the client.", is_secret=True, is_required=True),
        Option(name="member_id_path", doc="Where a reservation holds the member's number.", default="primaryGuest.loyaltyMemberId"),
        Option(name="amount_path", doc="Where it holds what was paid: an amount and its currency.", default="totalGrossAmount"),
        *stays.OPTIONS,
        Option(name="booking_id_path", doc="Where it holds the booking engine's number.", default="externalCode"),
        Option(name="folio_reopened_reverses", doc="Whether a folio that is opened again takes the stay's points back.", type=bool, default=True),
        Option(name="attributes", doc="member_id_path, amount_path and category as earlier versions had them; they prevail.", type=dict, default={}),
    ),
    push=Push(authenticate=by_password, translate=inbound.translate, challenge={"WWW-Authenticate": 'Basic realm="loyalty"'}),
    read=Read(begin=inbound.read),
    grant=_grant,
    judge=inbound.judged,
)  # fmt: skip
