"""Decides which IP addresses a URL from outside may lead to (SSRF guard).

The resolved address is checked, never the host's spelling: `2130706433`, `0177.1` and
`[::ffff:127.0.0.1]` are all loopback once resolved. Everything but plain public unicast is
refused unless the operator listed it. Pure.
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
#: never public, regardless of the registry or an older Python
_REFUSED = (
    ip_network("168.63.129.16/32"),  # Azure's host agent, on a public address
    ip_network("192.0.0.0/24"),  # protocol assignments; some clouds' metadata service
    ip_network("192.88.99.0/24"),  # 6to4 relays, retired
    ip_network("64:ff9b:1::/48"),  # NAT64 of a local network
    ip_network("2001::/23"),  # protocol assignments: Teredo, ORCHID, benchmarks
    ip_network("3fff::/20"),  # documentation
    ip_network("fec0::/10"),  # site-local, retired
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateHosts:
    """Private hosts that the operator allows: names and address ranges."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a comma list such as `minio,10.1.0.0/16,127.0.0.1`.

        Raises:
            ValueError: an entry is not a host name, address or CIDR.
        """
        names: set[str] = set()
        networks: list[Network] = []
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ip_network(entry.strip("[]")))
            except ValueError as error:
                if "/" in entry or ":" in entry or not _HOST_NAME.match(entry):
                    raise ValueError(
                        f"{entry!r} is not a host name, address or CIDR ({error})"
                    ) from None
                names.add(entry)
        return cls(names=frozenset(names), networks=tuple(networks))

    def allow(self, host: str, address: str) -> bool:
        """Return whether `host`, resolved to `address`, is listed."""
        effective = _effective(ip_address(address))
        listed = any(effective in net for net in self.networks if net.version == effective.version)
        return listed or host.lower().rstrip(".") in self.names


def is_public_address(address: str) -> bool:
    """Return whether `address` is plain public unicast, also if it embeds an IPv4 address."""
    effective = _effective(ip_address(address))
    if any(effective in net for net in _REFUSED if net.version == effective.version):
        return False
    return effective.is_global and not (effective.is_multicast or effective.is_reserved)


def _effective(address: Address) -> Address:
    """Return the IPv4 address embedded in an IPv6 one, where traffic ends up."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if int(address) >> 32 == 0 and int(address) > 1:  # ::a.b.c.d, long deprecated
        return IPv4Address(int(address))
    return address.ipv4_mapped or address.sixtofour or address
