"""Tests of embedded/settings.py and the api's address: nothing that a user sets is ignored."""

import socket

import pytest

from embedded.settings import StackSettings, is_loopback, unused_variables
from embedded.stack import api_url, check_address
from shared.errors import SettingsError

EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - nothing listens here


def test_the_address_of_the_api_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same variable as in a deployment without a stack."""
    monkeypatch.setenv("SEGUE_API_HOST", EVERY_ADDRESS)

    assert StackSettings.from_environment().host == EVERY_ADDRESS
    assert StackSettings.from_environment(host="::1").host == "::1"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:4000"),
        (EVERY_ADDRESS, "http://127.0.0.1:4000"),
        ("::", "http://[::1]:4000"),
        ("::1", "http://[::1]:4000"),
        ("192.0.2.7", "http://192.0.2.7:4000"),
        ("segue.example", "http://segue.example:4000"),
    ],
)
def test_the_url_is_one_that_this_machine_can_reach(host: str, url: str) -> None:
    """Nothing can connect to "every address"."""
    assert api_url(host, 4000) == url


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        (EVERY_ADDRESS, False),
        ("::", False),
        ("192.0.2.7", False),
        ("segue.example", False),
    ],
)
def test_an_address_that_opens_the_api_to_the_network_is_recognised(
    host: str, *, loopback: bool
) -> None:
    """The start then logs that the api has no authentication."""
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["192.0.2.7", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_rejected(host: str) -> None:
    """The message names the variable and two addresses that work."""
    with pytest.raises(SettingsError, match=r"SEGUE_API_HOST: .*not an address of this machine"):
        check_address(host, 0)


def test_a_port_in_use_is_rejected() -> None:
    """The message names the variable and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"SEGUE_API_PORT: port {port} .*--port 0"):
            check_address("127.0.0.1", port)


def test_variables_that_a_stack_does_not_use_are_reported() -> None:
    """The addresses of servers are used by an external stack; the health port never."""
    environment = {
        "DATABASE_URL": "postgresql://db/segue",
        "SEGUE_HEALTH_PORT": "4001",
        "MINIO_ENDPOINT": "",
        "SEGUE_API_PORT": "4000",
    }

    assert list(unused_variables("embedded", environment)) == ["DATABASE_URL", "SEGUE_HEALTH_PORT"]
    assert list(unused_variables("native", environment)) == ["DATABASE_URL", "SEGUE_HEALTH_PORT"]
    assert list(unused_variables("external", environment)) == ["SEGUE_HEALTH_PORT"]
