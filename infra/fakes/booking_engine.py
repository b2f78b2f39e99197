"""A booking engine that tells of its bookings by OTA_HotelResNotif, and sends again what is not answered with Success.

    engine = BookingEngineFake("http://127.0.0.1:8080/v1/webhooks/channel", "password")
    answer = await engine.book("B-7", member_id="M-1", amount="260.00")
"""

import asyncio
import uuid
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import aiohttp

from streams.connectors import xml_reader as xml
from streams.connectors.xml_reader import quoteattr
from streams.errors import ContractError

RETRY_DELAYS_S = (0.2, 0.5, 1.0)  # A real one takes minutes.
ANSWER_WITHIN_S = 30.0


class Answer(NamedTuple):
    status: int
    """0: none came."""
    is_success: bool
    error: str = ""
    """ShortText of an Error."""


class BookingEngineFake:
    """It only sends. `answers` holds all that came back, attempt by attempt."""

    def __init__(self, endpoint_url: str, password: str, *, user: str = "engine") -> None:
        self._endpoint_url = endpoint_url
        self._authorization = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
        self.answers: list[Answer] = []
        self.booked_at: dict[str, datetime] = {}

    async def book(self, booking_id: str, *, member_id: str | None, amount: str = "260.00", currency: str = "EUR", nights: int = 2) -> Answer:
        self.booked_at[booking_id] = datetime.now(UTC)
        return await self.send(self.message(booking_id, "Commit", member_id=member_id, amount=amount, currency=currency, nights=nights))

    async def cancel(self, booking_id: str, *, member_id: str | None) -> Answer:
        return await self.send(self.message(booking_id, "Cancel", member_id=member_id))

    def message(
        self, booking_id: str, status: str, *, member_id: str | None, amount: str = "260.00", currency: str = "EUR", nights: int = 2, program: str = "GRAND",
    ) -> bytes:  # fmt: skip
        now = datetime.now(UTC)
        start = now.date() + timedelta(days=30)
        loyalty = f"<CustLoyalty ProgramID={quoteattr(program)} MembershipID={quoteattr(member_id)}/>" if member_id else ""
        scaled = int(Decimal(amount) * 100)
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><OTA_HotelResNotifRQ xmlns="http://www.opentravel.org/OTA/2003/05" EchoToken="{uuid.uuid4()}" '
            f'TimeStamp="{now.isoformat(timespec="seconds")}" Version="1.0" ResStatus="{status}"><HotelReservations><HotelReservation '
            f'CreateDateTime="{self.booked_at.get(booking_id, now).isoformat(timespec="milliseconds")}"><UniqueID Type="14" ID={quoteattr(booking_id)}/>'
            f'<RoomStays><RoomStay><TimeSpan Start="{start}" End="{start + timedelta(days=nights)}"/>'
            f'<Total AmountAfterTax="{scaled}" DecimalPlaces="2" CurrencyCode="{currency}"/><BasicPropertyInfo HotelCode="MUC"/></RoomStay></RoomStays>'
            "<ResGuests><ResGuest><Profiles><ProfileInfo><Profile><Customer><PersonName><GivenName>Ada</GivenName><Surname>Example</Surname></PersonName>"
            f"<Email>ada@example.com</Email>{loyalty}</Customer></Profile></ProfileInfo></Profiles></ResGuest></ResGuests>"
            f'<ResGlobalInfo><HotelReservationIDs><HotelReservationID ResID_Type="14" ResID_Value={quoteattr(booking_id)}/></HotelReservationIDs>'
            "</ResGlobalInfo>"
            "</HotelReservation></HotelReservations></OTA_HotelResNotifRQ>"
        ).encode()

    async def send(self, body: bytes) -> Answer:
        """Send until it is taken or refused; the last answer."""
        answer = Answer(0, False)
        for delay_s in (0.0, *RETRY_DELAYS_S):
            await asyncio.sleep(delay_s)
            answer = await self._post(body)
            self.answers.append(answer)
            if answer.status and answer.status < 500:
                break
        return answer

    async def _post(self, body: bytes) -> Answer:
        headers = {"Authorization": self._authorization, "Content-Type": "application/xml"}
        try:
            timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._endpoint_url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return _read(response.status, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Answer(0, False)


def _read(status: int, body: bytes) -> Answer:
    try:
        root = xml.parse(body)
    except ContractError:
        return Answer(status, False)
    return Answer(status, xml.find(root, "Success") is not None, xml.text_at(root, "Errors/Error@ShortText") or "")
