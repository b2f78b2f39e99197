"""The gate before every request that goes out: which addresses a webhook may be sent to. Pure.

Whoever may add a destination chooses where this process connects to. So only addresses of the public internet pass, and what the operator allows:
otherwise a destination could be the cloud's metadata service, a database, or this process itself. The blocks are those of IANA's special-purpose
registries, but for entries that reach everybody; a table of our own, because `ipaddress` has changed its mind between versions of Python.
"""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from streams.errors import ConfigurationError

SETTING = "LOYALTY_DELIVERY_ALLOWED_ADDRESSES"

BLOCKED_IPV4 = tuple(IPv4Network(text) for text in (
    "0.0.0.0/8",  # This network; 0.0.0.0 connects to this machine.
    "10.0.0.0/8",
    "100.64.0.0/10",  # Carrier-grade NAT, and a cloud's metadata service.
    "127.0.0.0/8",
    "168.63.129.16/32",  # A cloud's metadata service at a public address.
    "169.254.0.0/16",  # Link-local, and most clouds' metadata service.
    "172.16.0.0/12",
    "192.0.0.0/24",  # Protocol assignments, and a cloud's metadata service.
    "192.0.2.0/24",  # Documentation.
    "192.31.196.0/24",  # AS112.
    "192.52.193.0/24",  # AMT.
    "192.88.99.0/24",  # 6to4 relays.
    "192.168.0.0/16",
    "192.175.48.0/24",  # AS112.
    "198.18.0.0/15",  # Benchmarks.
    "198.51.100.0/24",  # Documentation.
    "203.0.113.0/24",  # Documentation.
    "224.0.0.0/4",  # Multicast.
    "240.0.0.0/4",  # Reserved, and broadcast.
))  # fmt: skip

GLOBAL_IPV6 = IPv6Network("2000::/3")  # All that is unicast and global; what else there is, is blocked.
BLOCKED_IPV6 = tuple(IPv6Network(text) for text in (
    "2001::/23",  # Protocol assignments: Teredo, ORCHID, benchmarks.
    "2001:db8::/32",  # Documentation.
    "2002::/16",  # 6to4, given up in 2015; it would reach any IPv4 address.
    "2620:4f:8000::/48",  # AS112.
    "3fff::/20",  # Documentation.
))  # fmt: skip
NAT64 = IPv6Network("64:ff9b::/96")  # How IPv4 is reached from networks that have IPv6 alone.
ISATAP_INTERFACES = (0x0000_5EFE, 0x0200_5EFE)  # Bits 32 to 63 from the right; the IPv4 address follows.

LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{LABEL}\.)*(?![0-9]+\Z){LABEL}")

IPAddress = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What the operator allows beyond the public internet."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    names: frozenset[str] = frozenset()
    """Host names whose addresses all pass, whatever they are; as `canonical_name` gives them."""


EVERYWHERE = Allowed(networks=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))
"""For addresses that stand in the operator's own file."""


def parse_allowed(text: str) -> Allowed:
    """The operator's list, for example "10.0.0.0/8, 127.0.0.1, crm.internal". Raises ConfigurationError naming the setting and every malformed part."""
    networks, names, malformed = [], set(), []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name = canonical_name(part)
        try:
            networks.append(ip_network(part.replace("%", " ")))  # A zone belongs to one machine: malformed.
        except ValueError:
            if HOST_NAME.fullmatch(name) and literal_address(name) is None:
                names.add(name)
            else:
                malformed.append(part)
    if malformed:
        raise ConfigurationError(
            f"{SETTING} must be a comma-separated list of networks (10.0.0.0/8), addresses and exact host names, not {', '.join(map(repr, malformed))}."
        )
    return Allowed(networks=tuple(networks), names=frozenset(names))


def is_allowed(address: IPAddress, networks: Networks = ()) -> bool:
    """Whether a webhook may be sent to this address: it is public, or in one of the networks. An IPv4 address inside an IPv6 address is judged, too."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:  # A zone is only needed for what is not global.
            return False
        carried = _carried_ipv4(address)
        if carried is not None:
            return is_allowed(carried, networks)
    if any(address in network for network in networks):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in BLOCKED_IPV4)
    if address not in GLOBAL_IPV6 or any(address in network for network in BLOCKED_IPV6):
        return False
    number = int(address)
    return (number >> 32) & 0xFFFF_FFFF not in ISATAP_INTERFACES or is_allowed(IPv4Address(number & 0xFFFF_FFFF), networks)


def literal_address(host: str) -> IPAddress | None:
    """The address that a host of a URL writes out, in any form that an operating system takes (2130706433, 0x7f.1, 127.0.0.1.); None: it is a name."""
    text = host.strip("[]").rstrip(".")
    try:
        return ip_address(text)
    except ValueError:
        pass
    if ":" in text or not text or text.split() != [text]:  # The operating system ignores what follows a space.
        return None
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


def canonical_name(host: str) -> str:
    """The name to compare with `Allowed.names`."""
    return host.rstrip(".").lower()


def _carried_ipv4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that is reached by way of this one: mapped, or by NAT64."""
    return IPv4Address(int(address) & 0xFFFF_FFFF) if address in NAT64 else address.ipv4_mapped
