"""Cloudbeds: unsigned webhooks hint at reservations; what the reservation's own answer says decides."""

from streams.connectors import grants, stays
from streams.connectors.cloudbeds import inbound
from streams.connectors.contract import Connector, Grant, Option, Options, Push, Read, Token
from streams.connectors.proof import by_url_token


def _grant(options: Options) -> Grant | Token | None:
    if options["api_key"]:
        return grants.bearer(options["api_key"])
    url = f"{options['base_url'].rstrip('/')}/api/{options['api_version']}/access_token"
    return grants.refresh_token(
        url=url, client_id=options["client_id"], client_secret=options["client_secret"], refresh_token=options["refresh_token"], secret_in_body=True
    )


CONNECTOR = Connector(
    kind="cloudbeds",
    title="Cloudbeds",
    source_options=(
        Option(name="base_url", doc="Of the API, as https://hotels.cloudbeds.com.", is_required=True, is_url=True),
        Option(name="secret", doc="Token in the webhook's address: .../v1/webhooks/NAME?token=SECRET.", is_secret=True, is_required=True),
        Option(name="api_key", doc="Bearer token of the property's API key; or else OAuth 2.0, as follows.", is_secret=True),
        Option(name="client_id", doc="OAuth 2.0 client."),
        Option(name="client_secret", doc="Of the client.", is_secret=True),
        Option(name="refresh_token", doc="Of the client.", is_secret=True),
        Option(name="api_version", doc="Version in paths.", default="v1.3"),
        *stays.OPTIONS,
        Option(name="member_custom_field", doc="Name of the guest's or reservation's custom field with the member's number.", default="Loyalty number"),
        Option(name="member_id_path", doc="Or where else a reservation holds it; empty: nowhere."),
        Option(name="amount_path", doc="Where it holds what was paid.", default="balanceDetailed.grandTotal"),
        Option(name="currency_path", doc="Where it holds the currency; empty: the option currency.", default=""),
        Option(name="currency", doc="Of the property.", default="EUR"),
        Option(name="booking_id_path", doc="Where it holds the booking engine's number.", default="thirdPartyIdentifier"),
        Option(name="time_zone", doc="Of the property, for times without an offset.", default="UTC"),
    ),
    push=Push(authenticate=by_url_token, translate=inbound.translate),
    read=Read(begin=inbound.read),
    grant=_grant,
)  # fmt: skip
