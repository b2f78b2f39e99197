"""Booking engines and channel managers by OTA_HotelResNotif: a booking earns pending points, which its stay activates."""

from streams.connectors.contract import Connector, Option, Push
from streams.connectors.ota import inbound
from streams.connectors.proof import by_password

CONNECTOR = Connector(
    kind="ota",
    title="Booking engine (OTA_HotelResNotif)",
    source_options=(
        Option(name="secret", doc="Password of the HTTP basic authentication that the sender uses.", is_secret=True, is_required=True),
        Option(name="loyalty_program", doc="ProgramID of our memberships; empty: the first CustLoyalty counts."),
        Option(name="unique_id_type", doc="Type of the UniqueID that is the booking's.", default="14"),
        Option(name="category", doc="Category of a booking's earn, for the programme's rules.", default="room"),
        Option(name="currency", doc="Of amounts without a CurrencyCode.", default="EUR"),
    ),
    push=Push(
        authenticate=by_password, translate=inbound.translate, accepted=inbound.accepted, refused=inbound.refused,
        challenge={"WWW-Authenticate": 'Basic realm="loyalty"'},
    ),
)  # fmt: skip
