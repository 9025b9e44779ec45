"""Webhooks: what is believed to come from the provider, and what is not."""

import pytest

from shared.security.webhook_signatures import TOLERANCE_S, Deliveries, WebhookRefusedError, verify

# Made with openssl from the specification's recipe; the key is 24 bytes of base64.
KEY = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = b'{"id":"ufawqhfynnddngldkgtslldrkq","status":"succeeded"}'
NOW_S = 1_674_087_231
HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(NOW_S),
    "webhook-signature": "v1,6nYsziCd0Esghn94g5XSWOJh+V1rlmeL75gTozR/3Ds=",
}
OTHER_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_message_that_was_signed_with_our_key_is_believed() -> None:
    """Its id is what tells a resend."""
    assert verify(HEADERS, BODY, keys=[KEY], now_s=NOW_S) == HEADERS["webhook-id"]


def test_the_names_of_headers_come_in_any_case() -> None:
    """Servers differ."""
    headers = {name.title(): value for name, value in HEADERS.items()}

    assert verify(headers, BODY, keys=[KEY], now_s=NOW_S)


def test_one_fitting_signature_among_several_is_enough() -> None:
    """While a key is changed there are two, on either side."""
    signatures = f"v1,AAAA v2,{HEADERS['webhook-signature'][3:]} {HEADERS['webhook-signature']}"
    headers = HEADERS | {"webhook-signature": signatures}

    assert verify(headers, BODY, keys=[OTHER_KEY, KEY], now_s=NOW_S)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": "msg_other"},
        {"webhook-id": ""},
        {"webhook-id": "ü" * 3},
        {"webhook-id": "m" * 1000},
        {"webhook-timestamp": str(NOW_S + 1)},
        {"webhook-timestamp": f"{NOW_S}.0"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-timestamp": "-1"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,not base64"},
        {"webhook-signature": "v2," + HEADERS["webhook-signature"][3:]},
        {"webhook-signature": HEADERS["webhook-signature"][3:]},
        {"webhook-signature": "v1,AAAA " * 100 + HEADERS["webhook-signature"]},
    ],
)
def test_a_message_that_was_changed_is_refused(changed: dict[str, str]) -> None:
    """Any part of what was signed, and any signature that is none."""
    with pytest.raises(WebhookRefusedError):
        verify(HEADERS | changed, BODY, keys=[KEY], now_s=NOW_S)


def test_a_changed_body_is_refused() -> None:
    """To the last byte."""
    with pytest.raises(WebhookRefusedError, match="no signature matches"):
        verify(HEADERS, BODY + b" ", keys=[KEY], now_s=NOW_S)


@pytest.mark.parametrize("keys", [[], [OTHER_KEY], ["whsec_"], ["whsec_???"]])
def test_without_the_right_key_nothing_is_believed(keys: list[str]) -> None:
    """An empty key would let everyone sign."""
    with pytest.raises(WebhookRefusedError):
        verify(HEADERS, BODY, keys=keys, now_s=NOW_S)


@pytest.mark.parametrize("missing", list(HEADERS))
def test_a_message_without_one_of_its_headers_is_refused(missing: str) -> None:
    """All three are needed."""
    headers = {name: value for name, value in HEADERS.items() if name != missing}

    with pytest.raises(WebhookRefusedError, match=missing):
        verify(headers, BODY, keys=[KEY], now_s=NOW_S)


@pytest.mark.parametrize(
    ("late_s", "believed"),
    [
        (TOLERANCE_S, True),
        (-TOLERANCE_S, True),
        (TOLERANCE_S + 1, False),
        (-TOLERANCE_S - 1, False),
    ],
)
def test_a_message_is_good_for_five_minutes_either_way(late_s: int, *, believed: bool) -> None:
    """A recorded one cannot be played again later."""
    if believed:
        assert verify(HEADERS, BODY, keys=[KEY], now_s=NOW_S + late_s)
        return
    with pytest.raises(WebhookRefusedError, match="300 s"):
        verify(HEADERS, BODY, keys=[KEY], now_s=NOW_S + late_s)


def test_a_resent_message_is_known_by_its_id() -> None:
    """Sent again within a minute, as the provider does."""
    deliveries = Deliveries()

    assert [deliveries.is_new("a", now_s=at) for at in (0, 1, 60)] == [True, False, False]
    assert deliveries.is_new("b", now_s=60)


def test_what_could_not_be_replayed_any_more_is_forgotten() -> None:
    """The memory is bounded in time and in number."""
    deliveries = Deliveries(ids_max=2)
    assert all(deliveries.is_new(name, now_s=0) for name in "abc")

    assert deliveries.is_new("a", now_s=0)  # two newer ones pushed it out
    assert not deliveries.is_new("c", now_s=2 * TOLERANCE_S)
    assert deliveries.is_new("c", now_s=2 * TOLERANCE_S + 1)
