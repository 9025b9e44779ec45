"""Checks the outcome of each response to the paid request."""

import json
from pathlib import Path

import httpx
import pytest

from services.generator.providers.replicate.client import ResponseError
from shared.errors import (
    ProviderBusyError,
    ProviderPausedError,
    ProviderRejectedError,
    RetryableError,
)
from tests.unit.services.generator.providers.replicate.scripted_replicate import (
    FRESH,
    ScriptedReplicate,
    a_prediction,
)

THROTTLED = {
    "detail": "Request was throttled. Your rate limit resets in ~10s.",
    "status": 429,
    "retry_after": 12,
}


def _page(*results: dict[str, object], following: str | None = None) -> httpx.Response:
    return httpx.Response(200, json={"results": results, "next": following, "previous": None})


@pytest.fixture
def fixture(tmp_path: Path) -> ScriptedReplicate:
    """Return a provider that has sent no request."""
    return ScriptedReplicate(tmp_path)


@pytest.mark.parametrize(
    ("answer", "waits_s"),
    [
        (httpx.Response(429, json=THROTTLED, headers={"Retry-After": "3"}), 12),
        (httpx.Response(429, json={"detail": "slow"}, headers={"Retry-After": "3"}), 3),
        (httpx.Response(429, json={"detail": THROTTLED["detail"]}), 10),
        (httpx.ConnectError("refused"), 1),
        (httpx.ConnectTimeout("slow"), 1),
    ],
)
async def test_a_request_that_started_nothing_is_busy_without_a_search(
    fixture: ScriptedReplicate, answer: httpx.Response | Exception, waits_s: float
) -> None:
    """The delay comes from the body, the header or the message, else from our backoff."""
    fixture.respond("create", answer)

    with pytest.raises(ProviderBusyError) as caught:
        await fixture.provider.submit(FRESH)

    assert caught.value.retry_after_s == waits_s
    assert not fixture.requests_to("list")


async def test_a_429_delays_the_next_start_of_every_lane(fixture: ScriptedReplicate) -> None:
    """The pause belongs to the key, not to the lane."""
    fixture.respond(
        "create", httpx.Response(429, json=THROTTLED), httpx.Response(201, json=a_prediction())
    )
    with pytest.raises(ProviderBusyError):
        await fixture.provider.submit(FRESH)

    with pytest.raises(ProviderBusyError):
        await fixture.provider.submit(FRESH)  # it waits for 2 s, not for twelve
    await fixture.provider.ready(within_s=60)
    await fixture.provider.submit(FRESH)

    assert len(fixture.requests_to("create")) == 2
    assert fixture.clock.elapsed_s >= 12


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ReadTimeout("silence"),
        httpx.ReadError("reset"),
        httpx.WriteError("reset"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(500, json={"detail": "oops"}),
        httpx.Response(502, text="<html>"),
        httpx.Response(201, text="no json"),
        httpx.Response(201, json={"status": "starting"}),
        httpx.Response(307, headers={"Location": "https://elsewhere.example/"}),
        httpx.Response(408),
    ],
)
async def test_a_prediction_with_a_lost_response_is_found_by_its_seed(
    fixture: ScriptedReplicate, answer: httpx.Response | Exception
) -> None:
    """It is posted once; the list may lag."""
    fixture.respond("create", answer)
    fixture.respond(
        "list", _page(), _page(a_prediction(id="p0", input={"seed": 8}), a_prediction())
    )

    assert await fixture.provider.submit(FRESH) == "p1"

    assert len(fixture.requests_to("create")) == 1


@pytest.mark.parametrize(
    ("answer", "is_certain"),
    [
        (httpx.Response(500, json={"detail": "oops"}), True),
        (httpx.Response(503), True),
        (httpx.Response(502), False),
        (httpx.Response(504), False),
        (httpx.ReadTimeout("silence"), False),
        (httpx.Response(201, text="no json"), False),
    ],
)
async def test_a_lost_response_without_a_match_is_busy_only_if_nothing_can_have_started(
    fixture: ScriptedReplicate, answer: httpx.Response | Exception, *, is_certain: bool
) -> None:
    """After a gateway's error or no response, the claim has to settle it."""
    fixture.respond("create", answer)
    fixture.respond("list", _page())

    with pytest.raises(RetryableError) as caught:
        await fixture.provider.submit(FRESH)

    assert isinstance(caught.value, ProviderBusyError) is is_certain
    assert (len(fixture.requests_to("create")), len(fixture.requests_to("list"))) == (1, 4)


async def test_a_server_error_with_an_unreadable_list_stays_unknown(
    fixture: ScriptedReplicate,
) -> None:
    """The provider failed at both requests."""
    fixture.respond("create", httpx.Response(500))
    fixture.respond("list", httpx.Response(500))

    with pytest.raises(RetryableError) as caught:
        await fixture.provider.submit(FRESH)

    assert not isinstance(caught.value, ProviderBusyError)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {"title": "Unauthenticated"}, "Replicate rejected the API key"),
        (403, {"detail": "no"}, "Replicate rejected the API key"),
        (402, {"title": "Insufficient credit", "detail": "buy some"}, "Insufficient credit"),
    ],
)
async def test_a_refused_key_or_empty_account_pauses_every_lane(
    fixture: ScriptedReplicate, status: int, body: dict[str, str], message: str
) -> None:
    """With the reason and the time of the next probe; no other request is sent."""
    fixture.respond("create", httpx.Response(status, json=body))
    with pytest.raises(ProviderPausedError, match=message):
        await fixture.provider.submit(FRESH)

    with pytest.raises(ProviderPausedError, match=message) as caught:
        await fixture.provider.submit(FRESH)

    assert caught.value.retry_after_s == 30
    assert message in (fixture.provider.paused or "")
    assert len(fixture.requests_to("create")) == 1


async def test_a_key_that_works_again_is_noticed_by_a_free_probe(
    fixture: ScriptedReplicate,
) -> None:
    """The account is requested once in half a minute; then submissions continue."""
    fixture.respond("create", httpx.Response(401), httpx.Response(201, json=a_prediction()))
    fixture.respond("account", httpx.Response(401), httpx.Response(200, json={}))
    with pytest.raises(ProviderPausedError):
        await fixture.provider.submit(FRESH)
    fixture.clock.jump(31)
    with pytest.raises(ProviderPausedError):
        await fixture.provider.submit(FRESH)
    fixture.clock.jump(31)

    assert await fixture.provider.submit(FRESH) == "p1"

    assert (len(fixture.requests_to("account")), len(fixture.requests_to("create"))) == (2, 2)
    assert fixture.provider.paused is None


async def test_without_a_key_no_request_is_sent(tmp_path: Path) -> None:
    """The message is the contract's."""
    fixture = ScriptedReplicate(tmp_path, settings={"key": ""})

    for call in (fixture.provider.submit(FRESH), fixture.provider.find(FRESH)):
        with pytest.raises(ProviderPausedError, match=r"^No Replicate API key configured$"):
            await call

    assert not fixture.requests


@pytest.mark.parametrize("status", [400, 404, 422, 499])
async def test_a_rejection_is_not_searched_for(fixture: ScriptedReplicate, status: int) -> None:
    """A client error is certain: nothing was started."""
    fixture.respond("create", httpx.Response(status, json={"detail": "no"}))

    with pytest.raises(ProviderRejectedError):
        await fixture.provider.submit(FRESH)

    assert not fixture.requests_to("list")


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ([("p1", "failed"), ("p2", "processing")], "p2"),
        ([("p1", "failed"), ("p2", "canceled")], "p1"),
    ],
)
async def test_a_lost_prediction_that_has_not_failed_is_preferred(
    fixture: ScriptedReplicate, listed: list[tuple[str, str]], found: str
) -> None:
    """If all have failed, the newest: its error decides about the next attempt."""
    fixture.respond("create", httpx.ReadTimeout("silence"))
    predictions = [a_prediction(id=name, status=status) for name, status in listed]
    fixture.respond("list", _page(*predictions))

    assert await fixture.provider.submit(FRESH) == found


@pytest.mark.parametrize(("retry_after_s", "waits_s"), [(12.0, 12.0), (None, 1.0)])
async def test_a_throttled_request_makes_all_lanes_wait(
    fixture: ScriptedReplicate, retry_after_s: float | None, waits_s: float
) -> None:
    """For as long as the provider asks for, else with our own backoff."""
    creator = fixture.provider._creator

    error = creator.to_domain_error(ResponseError(429, "slow", retry_after_s=retry_after_s))

    assert isinstance(error, ProviderBusyError)
    assert error.retry_after_s == waits_s


async def test_a_rejected_input_keeps_the_providers_message(fixture: ScriptedReplicate) -> None:
    """422: it can never succeed, and nothing was started."""
    detail = "- input.duration: must be an integer"
    body = {"title": "Input validation failed", "detail": detail}
    fixture.respond("create", httpx.Response(422, json=body))

    with pytest.raises(
        ProviderRejectedError, match=r"input\.duration: must be an integer"
    ) as caught:
        await fixture.provider.submit(FRESH)

    assert not caught.value.retryable


async def test_the_list_is_read_page_by_page_until_the_claim(
    fixture: ScriptedReplicate,
) -> None:
    """Newest first; the page after the claim's time is not requested."""
    other = a_prediction(id="p9", input={"prompt": "calm", "duration": 2, "seed": 9})
    purged = a_prediction(id="p8", input=None, data_removed=True)
    old = a_prediction(id="p7", created_at="2020-01-01T00:00:00Z")
    fixture.respond(
        "list",
        _page(other, following="https://evil.example/v1/predictions?cursor=abc"),
        _page(purged, {"status": "no id"}, old, following="https://evil.example/?cursor=def"),
    )

    assert await fixture.provider.find(FRESH) is None

    assert [request.url.host for request in fixture.requests] == ["api.replicate.com"] * 2
    assert fixture.requests[1].url.params["cursor"] == "abc"


async def test_a_list_that_is_too_long_raises_instead_of_finding_nothing(
    fixture: ScriptedReplicate,
) -> None:
    """Only a completely read list proves that there is no prediction."""
    pages = iter(range(1, 1000))
    fixture.respond(
        "list",
        lambda _: _page(following=f"https://api.replicate.com/v1/predictions?cursor={next(pages)}"),
    )

    with pytest.raises(RetryableError, match="more than 100 pages"):
        await fixture.provider.find(FRESH)


async def test_of_two_predictions_with_one_seed_the_successful_one_is_found(
    fixture: ScriptedReplicate,
) -> None:
    """A cancelled one is returned only if there is no other."""
    fixture.respond("list", _page(a_prediction(id="p2", status="canceled"), a_prediction()))

    assert await fixture.provider.find(FRESH) == "p1"


async def test_a_process_suspended_between_claim_and_request_sends_nothing(tmp_path: Path) -> None:
    """Another process may have claimed since; suspended here while the clip was read."""
    fixture = ScriptedReplicate(tmp_path)
    source = fixture.provider._source

    async def suspended(request: object) -> object:
        fixture.clock.jump(60)
        return await source(request)  # type: ignore[arg-type]

    fixture.provider._source = suspended  # type: ignore[method-assign,assignment]

    with pytest.raises(ProviderBusyError, match="too long between claim and request"):
        await fixture.provider.submit(FRESH)

    assert not fixture.requests


async def test_the_search_allows_for_clock_skew(
    fixture: ScriptedReplicate,
) -> None:
    """A clock an hour ahead must not hide a prediction just created."""
    fixture.respond("create", httpx.ReadTimeout("silence"))
    fixture.respond("list", _page(a_prediction()))

    await fixture.provider.submit(FRESH)

    assert fixture.requests_to("list")[0].url.params["created_after"] == "2025-12-31T22:55:00Z"
    assert json.loads(fixture.requests_to("create")[0].content)["input"]["seed"] == 7
