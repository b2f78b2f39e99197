"""Oracle OPERA Cloud by OHIP: events by its stream or its queue hint at reservations; balances go to profiles' memberships."""

from streams.connectors import stays
from streams.connectors.contract import Connector, Option, Poll, Read, Stream, Write
from streams.connectors.ohip import api, inbound, outbound

_CONNECTION = (
    Option(name="base_url", doc="Of the gateway.", is_required=True, is_url=True),
    Option(name="app_key", doc="Application key.", is_secret=True, is_required=True),
    Option(name="client_id", doc="OAuth 2.0 client.", is_required=True),
    Option(name="client_secret", doc="Of the client.", is_secret=True, is_required=True),
    Option(name="scope", doc="What client credentials are asked for.", default="urn:opc:hgbu:ws:__myscopes__"),
    Option(name="enterprise_id", doc="Header enterpriseId of the token endpoint; empty: not sent."),
    Option(name="user", doc="Integration user: grant `password` in place of client credentials."),
    Option(name="password", doc="Of that user.", is_secret=True),
    Option(name="hotel_id", doc="Hotel; of the queue and the stream: empty means all."),
)

CONNECTOR = Connector(
    kind="ohip",
    title="Oracle OPERA Cloud (OHIP)",
    source_options=(
        *_CONNECTION,
        *stays.OPTIONS,
        Option(name="streaming_url", doc="wss:// address of the event stream; empty: the queue is asked."),
        Option(name="chain_code", doc="Chain, for the stream."),
        Option(name="external_system", doc="Code of the external system whose queue is asked."),
        Option(name="modules", doc="Modules whose events are about reservations, in lower case.", type=list, default=["reservation", "14"]),
        Option(name="status_elements", doc="Elements that hold the status, letters only, in lower case.", type=list,
               default=["reservationstatus"]),
        Option(name="ended_values", doc="Statuses of a stay that has ended, letters only, in lower case.", type=list, default=["checkedout"]),
        Option(name="cancelled_values", doc="Statuses of one that does not take place.", type=list, default=["cancelled", "canceled", "noshow"]),
        Option(name="reservation_path", doc="Path of one reservation.", default="/rsv/v1/hotels/{hotel_id}/reservations/{reservation_id}"),
        Option(name="reservation_root_path", doc="Where the reservation stands in the answer.", default="reservations.reservation.0"),
        Option(name="status_path", doc="In a reservation: its status.", default="reservationStatus"),
        Option(name="member_id_path", doc="... the member's number.", default="reservationMemberships.reservationMembership.0.membershipId"),
        Option(name="amount_path", doc="... what was paid.", default="roomStay.total.amountAfterTax"),
        Option(name="currency_path", doc="... the currency; empty: the option currency.", default="roomStay.total.currencyCode"),
        Option(name="currency", doc="Of the property.", default="USD"),
        Option(name="arrival_path", doc="... the first day.", default="roomStay.arrivalDate"),
        Option(name="departure_path", doc="... the last day.", default="roomStay.departureDate"),
        Option(name="ended_at_path", doc="... when it ended; empty: when the event came."),
        Option(name="booking_id_path", doc="... the booking engine's number.", default="externalReferences.0.id"),
        Option(name="time_zone", doc="Of the property, for times without an offset.", default="UTC"),
        Option(name="departures_path", doc="Path of a search for departures, for what the queue has lost; empty: none.",
               default="/rsv/v1/hotels/{hotel_id}/reservations?departureStartDate={first}&departureEndDate={last}&limit={limit}&offset={offset}"),
        Option(name="departures_list_path", doc="Where its answer has the reservations.", default="reservations.reservationInfo"),
        Option(name="departures_id_path", doc="Where each has its id.", default="reservationIdList.0.id"),
    ),
    read=Read(begin=inbound.read),
    polls={
        "events": Poll(begin=inbound.dequeue, every_s=10.0, is_wanted=inbound.uses_queue),
        "departures": Poll(begin=inbound.departures, every_s=3600.0,
                           is_wanted=lambda source: inbound.uses_queue(source) and bool(source.options["departures_path"] and source.options["hotel_id"])),
    },
    streams={"stream": Stream(open=inbound.subscribe, is_wanted=lambda source: not inbound.uses_queue(source))},
    target_options=(
        *_CONNECTION,
        Option(name="membership_path", doc="Path of a membership.", default="/crm/v1/profiles/{profile_id}/memberships/{membership_id}"),
        Option(name="profile_id_type", doc="Type of the members' external id that holds their profile's id in OPERA.", default="opera_profile"),
        Option(name="member_id_field", doc="Field of the member's number.", default="membershipId"),
        Option(name="points_field", doc="Field of the points.", default="currentPoints"),
        Option(name="tier_field", doc="Field of the tier; empty: not sent.", default="membershipLevel"),
        Option(name="membership_type", doc="Type of the membership; empty: not sent."),
    ),
    write=Write(begin=outbound.write, states_max=20, wants_profile=True),
    grant=api.grant,
)  # fmt: skip
