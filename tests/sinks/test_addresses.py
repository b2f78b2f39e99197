"""Which addresses a webhook may be sent to: a table of all that was ever used to reach what is internal."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.addresses import NAT64, Allowed, is_allowed, literal_address, parse_allowed
from streams import settings
from streams.errors import ConfigurationError
from tests.sinks.ssrf import BLOCKED_ADDRESSES, BLOCKED_HOSTS, PUBLIC_ADDRESSES

IPV4 = st.integers(0, 2**32 - 1).map(IPv4Address)
MAPPED = ip_network("::ffff:0:0/96")


def test_the_corpus_is_as_large_as_it_claims() -> None:
    assert len(set(BLOCKED_ADDRESSES)) >= 80 and len(set(BLOCKED_HOSTS)) >= 60


@pytest.mark.parametrize("text", BLOCKED_ADDRESSES)
def test_what_is_not_public_is_blocked(text: str) -> None:
    assert not is_allowed(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC_ADDRESSES)
def test_what_is_public_passes(text: str) -> None:
    assert is_allowed(ip_address(text))


@given(st.one_of(IPV4, st.integers(0, 2**128 - 1).map(IPv6Address), st.integers(0, 2**125 - 1).map(lambda n: IPv6Address(n | 1 << 125))))
def test_what_python_calls_not_global_never_passes(address: IPv4Address | IPv6Address) -> None:
    """Python is the second opinion, but for IPv4 inside IPv6."""
    if not address.is_global and address not in NAT64 and address not in MAPPED:
        assert not is_allowed(address)


@given(IPV4)
def test_ipv4_inside_ipv6_is_judged_as_ipv4(address: IPv4Address) -> None:
    expected = is_allowed(address)
    assert is_allowed(IPv6Address(int(MAPPED.network_address) | int(address))) == expected
    assert is_allowed(IPv6Address(int(NAT64.network_address) | int(address))) == expected
    assert is_allowed(IPv6Address(f"2606:4700::5efe:{address}")) == expected


@given(IPV4)
def test_an_address_is_found_in_every_form_that_the_operating_system_takes(address: IPv4Address) -> None:
    number, octets = int(address), address.packed
    forms = [
        str(address), f"{address}.", str(number), hex(number), f"0{number:o}", ".".join(map(hex, octets)), ".".join(f"0{one:o}" for one in octets),
        f"{octets[0]}.{number & 0xFFFFFF}", f"{octets[0]}.{octets[1]}.{number & 0xFFFF}", f"0X{number:X}",
    ]  # fmt: skip
    for form in forms:
        assert literal_address(form) == address
        assert socket.getaddrinfo(form.rstrip("."), None, flags=socket.AI_NUMERICHOST)[0][4][0] == str(address), "that is what would be connected to"
    assert literal_address(f"[::ffff:{address}]") == IPv6Address(f"::ffff:{address}")


@pytest.mark.parametrize("host", ["crm.example", "", ".", "1.2.3.4.5", "256.0.0.1", "127.0.0.1.example", "a:b", "127.0.0.1 x", "０x", "4294967296"])
def test_names_are_no_addresses(host: str) -> None:
    assert literal_address(host) is None


# What the operator allows.


def test_the_operator_allows_networks_addresses_and_names() -> None:
    allowed = parse_allowed(" 10.0.0.0/8, 127.0.0.1,crm.Internal., fd00::/8,localhost, ,my_host")
    assert allowed.names == {"crm.internal", "localhost", "my_host"}
    passing = ["10.1.2.3", "127.0.0.1", "fd00::1", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2606:4700::5efe:10.0.0.1", "8.8.8.8"]
    blocked = ["127.0.0.2", "fc00::1", "::10.1.2.3", "::ffff:127.0.0.2", "192.168.0.1", "fd00::1%1"]
    assert [text for text in passing if not is_allowed(ip_address(text), allowed.networks)] == []
    assert [text for text in blocked if is_allowed(ip_address(text), allowed.networks)] == []


def test_nothing_is_allowed_unless_said() -> None:
    assert parse_allowed("") == parse_allowed(" , ") == Allowed()


@pytest.mark.parametrize("part", [
    "10.1.2.3/8", "10.0.0", "1.2.3.4.5", "0x7f.1", "2130706433", "*.internal", "http://crm.internal", "crm.internal:8080", "[::1]", "fe80::1%eth0",
    "-a", "a..b", "a b", "10.0.0.0/33", "crm.internal/24", "x" * 64, "crm.ünternal",
])  # fmt: skip
def test_a_malformed_part_is_named_with_its_setting(part: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.load({"LOYALTY_DELIVERY_ALLOWED_ADDRESSES": f"10.0.0.0/8, {part}"})
    assert "LOYALTY_DELIVERY_ALLOWED_ADDRESSES" in str(caught.value) and repr(part) in str(caught.value)
