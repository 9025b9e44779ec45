"""Addresses: which of them a URL from outside may lead to.

Judged is the address that will be connected to, never the host's spelling: `2130706433`,
`0177.1` and `[::ffff:127.0.0.1]` are all loopback once resolved. Everything that is not plain
public unicast is refused, unless the operator listed it. Pure.
"""

import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Self

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_HOST_NAME = re.compile(r"^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?$")
_NAT64 = ip_network("64:ff9b::/96")
#: not public, whatever the registry or an older Python says
_REFUSED = (
    ip_network("168.63.129.16/32"),  # Azure's host agent, on a public address
    ip_network("192.0.0.0/24"),  # protocol assignments; a cloud's metadata lives there
    ip_network("192.88.99.0/24"),  # 6to4 relays, retired
    ip_network("64:ff9b:1::/48"),  # NAT64 of one's own network
    ip_network("2001::/23"),  # protocol assignments: Teredo, ORCHID, benchmarks
    ip_network("3fff::/20"),  # documentation
    ip_network("fec0::/10"),  # site-local, retired
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateHosts:
    """What the operator allows inside the network: names and address ranges."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a comma list such as `minio,10.1.0.0/16,127.0.0.1`.

        Raises:
            ValueError: an entry is neither a host name nor an address or CIDR.
        """
        names: set[str] = set()
        networks: list[Network] = []
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ip_network(entry.strip("[]")))
            except ValueError as error:
                if "/" in entry or ":" in entry or not _HOST_NAME.match(entry):
                    raise ValueError(
                        f"{entry!r} is neither a host name nor an address or CIDR ({error})"
                    ) from None
                names.add(entry)
        return cls(names=frozenset(names), networks=tuple(networks))

    def allow(self, host: str, address: str) -> bool:
        """Whether `host`, resolved to `address`, was listed."""
        meant = _meant(ip_address(address))
        listed = any(meant in net for net in self.networks if net.version == meant.version)
        return listed or host.lower().rstrip(".") in self.names


def is_public(address: str) -> bool:
    """Whether `address` is plain public unicast, also when it wraps an IPv4 address."""
    meant = _meant(ip_address(address))
    if any(meant in net for net in _REFUSED if net.version == meant.version):
        return False
    return meant.is_global and not (meant.is_multicast or meant.is_reserved)


def _meant(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one, where there is one: traffic ends up there."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if int(address) >> 32 == 0 and int(address) > 1:  # ::a.b.c.d, long deprecated
        return IPv4Address(int(address))
    return address.ipv4_mapped or address.sixtofour or address
