"""Mews: webhooks and a WebSocket hint at reservations, which are read again; balances and tiers go to loyalty memberships."""

from streams.connectors import stays
from streams.connectors.contract import Connector, Option, Poll, Push, Read, Stream, Write
from streams.connectors.mews import inbound, outbound
from streams.connectors.proof import by_url_token

_CONNECTION = (
    Option(name="base_url", doc="Of the platform, as https://api.mews.com.", is_required=True, is_url=True),
    Option(name="client_token", doc="Of the integration.", is_secret=True, is_required=True),
    Option(name="access_token", doc="Of the property.", is_secret=True, is_required=True),
    Option(name="client_name", doc="How we call ourselves.", default="loyalty-sync 1.0"),
    Option(name="membership_id_type", doc="Type of the members' external id that holds Mews' id of their membership.", default="mews_membership"),
)

CONNECTOR = Connector(
    kind="mews",
    title="Mews",
    source_options=(
        *_CONNECTION,
        *stays.OPTIONS,
        Option(name="secret", doc="Token in the webhook's address: .../v1/webhooks/NAME?token=SECRET.", is_secret=True, is_required=True),
        Option(name="websocket_url", doc="wss://HOST of the WebSocket; empty: webhooks and the poll alone."),
        Option(name="reservations_path", doc="Path of the operation with its version.", default="reservations/getAll/2023-06-06"),
        Option(name="memberships_path", doc="Path of the operation.", default="loyaltyMemberships/getAll"),
        Option(name="items_path", doc="Path of the operation.", default="orderItems/getAll"),
        Option(name="member_id_field", doc="Field of a loyalty membership that holds the member's number.", default="MembershipNumber"),
        Option(name="loyalty_program_id", doc="Mews' id of our programme; empty: any membership counts."),
        Option(name="booking_id_field", doc="Field of a reservation that holds the booking engine's number.", default="ChannelNumber"),
        Option(name="currency", doc="Of a reservation without items.", default="EUR"),
        Option(name="time_zone", doc="Of the property, for its nights.", default="UTC"),
        Option(name="overlap_s", doc="How far a poll reaches back behind the last one's begin, in seconds.", type=float, default=300.0),
    ),
    push=Push(authenticate=by_url_token, translate=inbound.translate),
    read=Read(begin=inbound.read),
    polls={"reservations": Poll(begin=inbound.poll, every_s=300.0)},
    streams={"events": Stream(open=inbound.listen, is_wanted=lambda source: bool(source.options["websocket_url"]))},
    target_options=(
        *_CONNECTION,
        Option(name="tier_ids", doc="Tier -> Mews' id of it; a tier without one is not sent.", type=dict, default={}),
    ),
    write=Write(begin=outbound.write, states_max=1000, wants_profile=True),
)  # fmt: skip
