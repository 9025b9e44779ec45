"""Only plain public unicast addresses are public, in every spelling."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsError
from shared.http.address_policy import PrivateHosts, is_public_address
from shared.http.video_source import FetchSettings

PUBLIC = ("8.8.8.8", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700::1111")
PRIVATE = (
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    *("0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1", "239.255.255.250", "240.0.0.1"),  # noqa: S104 - refused here
    *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fe80::1%2", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
    *("2001:db8::1", "3fff::1", "100::1", "2001:0:7f00:1::1", "64:ff9b:1::808:808"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_public_plain_and_embedded(address: str) -> None:
    """An IPv4 address embedded in an IPv6 one is checked as itself."""
    assert is_public_address(address)
    if ":" not in address:
        assert is_public_address(f"::ffff:{address}")
        assert is_public_address(f"64:ff9b::{address}")


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_not_public(address: str) -> None:
    """Loopback, private, shared, link-local, metadata, multicast, reserved, documentation."""
    assert not is_public_address(address)


@given(st.sampled_from([a for a in PRIVATE if ":" not in a]))
def test_no_embedding_makes_a_private_address_public(address: str) -> None:
    """Mapped, compatible, NAT64 and 6to4 forms lead to the same host."""
    number = int(IPv4Address(address))
    wrapped = (
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(number),
        IPv6Address((0x0064_FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80)),
    )

    assert not any(is_public_address(str(form)) for form in wrapped)


def test_operator_may_allow_names_addresses_and_ranges() -> None:
    """A name allows all its addresses; a range allows every name that resolves into it."""
    listed = PrivateHosts.parse(" minio, 10.1.0.0/16,127.0.0.1 , [::1],fd00::/8,")

    assert listed.allow("minio", "172.18.0.5")
    assert listed.allow("MINIO.", "172.18.0.5")
    assert listed.allow("anything", "10.1.2.3")
    assert listed.allow("localhost", "127.0.0.1")
    assert listed.allow("localhost", "::ffff:127.0.0.1")
    assert listed.allow("localhost", "::1")
    assert not listed.allow("minio.example", "172.18.0.5")
    assert not listed.allow("anything", "10.2.0.1")
    assert not listed.allow("localhost", "127.0.0.2")


def test_no_private_host_is_allowed_by_default() -> None:
    """The default list is empty."""
    assert not FetchSettings.from_environment().private_hosts.allow("localhost", "127.0.0.1")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "a b", "http://minio", "::zz"])
def test_invalid_list_stops_the_start_and_names_its_variable(text: str) -> None:
    """A typing error must not open, or silently close, the network."""
    with pytest.raises(SettingsError, match="SEGUE_FETCH_PRIVATE_HOSTS"):
        FetchSettings.from_environment(SEGUE_FETCH_PRIVATE_HOSTS=text)
