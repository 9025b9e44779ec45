"""Which webhooks are accepted as the provider's."""

import base64
import hashlib
import hmac

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


def test_signed_message_is_accepted() -> None:
    """Its id identifies a retry."""
    assert verify(HEADERS, BODY, keys=[KEY], now_s=NOW_S) == HEADERS["webhook-id"]


def test_header_names_are_case_insensitive() -> None:
    """Servers differ."""
    headers = {name.title(): value for name, value in HEADERS.items()}

    assert verify(headers, BODY, keys=[KEY], now_s=NOW_S)


def test_one_matching_signature_is_enough() -> None:
    """During a key rotation there are two, on either side."""
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
def test_changed_message_is_rejected(changed: dict[str, str]) -> None:
    """Any signed part, and any invalid signature."""
    with pytest.raises(WebhookRefusedError):
        verify(HEADERS | changed, BODY, keys=[KEY], now_s=NOW_S)


def test_changed_body_is_rejected() -> None:
    """To the last byte."""
    with pytest.raises(WebhookRefusedError, match="no signature matches"):
        verify(HEADERS, BODY + b" ", keys=[KEY], now_s=NOW_S)


def signed(message_id: str, now_s: int) -> dict[str, str]:
    """Return the headers of a message that the provider signs."""
    content = f"{message_id}.{now_s}.".encode() + BODY
    secret = base64.b64decode(KEY.removeprefix("whsec_"))
    signature = base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": f"v1,{signature}",
    }


@pytest.mark.parametrize("now_s", [NOW_S, 10**14])
def test_longest_id_and_timestamp_are_accepted(now_s: int) -> None:
    """256 characters, and 15 digits."""
    message_id = "m" * 256

    assert verify(signed(message_id, now_s), BODY, keys=[KEY], now_s=now_s) == message_id


@pytest.mark.parametrize("message_id", ["", "ü", "m" * 257])
def test_invalid_id_is_rejected_even_if_it_is_signed(message_id: str) -> None:
    """It would be logged and kept in memory."""
    with pytest.raises(WebhookRefusedError, match="invalid webhook-id"):
        verify(signed(message_id, NOW_S), BODY, keys=[KEY], now_s=NOW_S)


@pytest.mark.parametrize("keys", [[], [OTHER_KEY], ["whsec_"], ["whsec_???"]])
def test_message_is_rejected_without_the_right_key(keys: list[str]) -> None:
    """An empty key would accept any signature."""
    with pytest.raises(WebhookRefusedError):
        verify(HEADERS, BODY, keys=keys, now_s=NOW_S)


@pytest.mark.parametrize("missing", list(HEADERS))
def test_message_without_a_header_is_rejected(missing: str) -> None:
    """All three are required."""
    headers = {name: value for name, value in HEADERS.items() if name != missing}

    with pytest.raises(WebhookRefusedError, match=missing):
        verify(headers, BODY, keys=[KEY], now_s=NOW_S)


@pytest.mark.parametrize(
    ("late_s", "is_accepted"),
    [
        (TOLERANCE_S, True),
        (-TOLERANCE_S, True),
        (TOLERANCE_S + 1, False),
        (-TOLERANCE_S - 1, False),
    ],
)
def test_message_is_accepted_for_five_minutes_either_way(late_s: int, *, is_accepted: bool) -> None:
    """A recorded message cannot be replayed later."""
    if is_accepted:
        assert verify(HEADERS, BODY, keys=[KEY], now_s=NOW_S + late_s)
        return
    with pytest.raises(WebhookRefusedError, match="300 s"):
        verify(HEADERS, BODY, keys=[KEY], now_s=NOW_S + late_s)


def test_retried_message_is_known_by_its_id() -> None:
    """The provider retries within a minute."""
    deliveries = Deliveries()

    assert [deliveries.is_new("a", now_s=at) for at in (0, 1, 60)] == [True, False, False]
    assert deliveries.is_new("b", now_s=60)


def test_old_message_ids_are_dropped() -> None:
    """The memory is bounded in time and in number."""
    deliveries = Deliveries(ids_max=2)
    assert all(deliveries.is_new(name, now_s=0) for name in "abc")

    assert deliveries.is_new("a", now_s=0)  # two newer ones replaced it
    assert not deliveries.is_new("c", now_s=2 * TOLERANCE_S)
    assert deliveries.is_new("c", now_s=2 * TOLERANCE_S + 1)


def test_message_id_is_kept_for_as_long_as_a_replay_is_accepted() -> None:
    """Other messages do not replace it."""
    deliveries = Deliveries()
    assert deliveries.is_new("a", now_s=NOW_S)
    assert deliveries.is_new("b", now_s=NOW_S + 1)
    assert deliveries.is_new("c", now_s=NOW_S + 2 * TOLERANCE_S)

    assert not deliveries.is_new("a", now_s=NOW_S + 2 * TOLERANCE_S)


def test_forgotten_message_id_is_new() -> None:
    """Its message could not be processed, so its retry is processed."""
    deliveries = Deliveries()
    deliveries.is_new("a", now_s=0)
    deliveries.forget("a")

    assert deliveries.is_new("a", now_s=1)
