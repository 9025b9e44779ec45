"""Replicate's payments: what each answer to the one request that costs leads to."""

import json
from pathlib import Path

import httpx
import pytest

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
    """A provider that nobody asked yet."""
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
async def test_what_started_nothing_is_busy_and_looks_nothing_up(
    fixture: ScriptedReplicate, answer: httpx.Response | Exception, waits_s: float
) -> None:
    """For as long as the body says, or the header, or the words, or else our own patience."""
    fixture.tells("create", answer)

    with pytest.raises(ProviderBusyError) as caught:
        await fixture.provider.submit(FRESH)

    assert caught.value.retry_after_s == waits_s
    assert not fixture.at("list")


async def test_a_429_makes_the_next_start_wait_whoever_asks(fixture: ScriptedReplicate) -> None:
    """The pause is the key's, not the lane's."""
    fixture.tells(
        "create", httpx.Response(429, json=THROTTLED), httpx.Response(201, json=a_prediction())
    )
    with pytest.raises(ProviderBusyError):
        await fixture.provider.submit(FRESH)

    with pytest.raises(ProviderBusyError):
        await fixture.provider.submit(FRESH)  # it waits for a moment, not for twelve seconds
    await fixture.provider.ready(within_s=60)
    await fixture.provider.submit(FRESH)

    assert len(fixture.at("create")) == 2
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
async def test_a_lost_answer_is_found_by_its_seed(
    fixture: ScriptedReplicate, answer: httpx.Response | Exception
) -> None:
    """Posted once; the list may need a moment to show it."""
    fixture.tells("create", answer)
    fixture.tells("list", _page(), _page(a_prediction(id="p0", input={"seed": 8}), a_prediction()))

    assert await fixture.provider.submit(FRESH) == "p1"

    assert len(fixture.at("create")) == 1


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
async def test_a_lost_answer_that_is_not_found_is_busy_only_if_nothing_can_come_of_it(
    fixture: ScriptedReplicate, answer: httpx.Response | Exception, *, is_certain: bool
) -> None:
    """A gateway's word, or none, may still lead to a prediction: the claim has to settle it."""
    fixture.tells("create", answer)
    fixture.tells("list", _page())

    with pytest.raises(RetryableError) as caught:
        await fixture.provider.submit(FRESH)

    assert isinstance(caught.value, ProviderBusyError) is is_certain
    assert (len(fixture.at("create")), len(fixture.at("list"))) == (1, 4)


async def test_a_fault_whose_list_cannot_be_read_is_never_called_certain(
    fixture: ScriptedReplicate,
) -> None:
    """The provider failed at both: nothing is known."""
    fixture.tells("create", httpx.Response(500))
    fixture.tells("list", httpx.Response(500))

    with pytest.raises(RetryableError) as caught:
        await fixture.provider.submit(FRESH)

    assert not isinstance(caught.value, ProviderBusyError)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"title": "Unauthenticated"}, "No Replicate API key configured"),
        (403, {"detail": "no"}, "No Replicate API key configured"),
        (402, {"title": "Insufficient credit", "detail": "buy some"}, "Insufficient credit"),
    ],
)
async def test_who_refuses_everyone_pauses_everyone(
    fixture: ScriptedReplicate, status: int, body: dict[str, str], words: str
) -> None:
    """Named, with the time of the next question; nobody else is sent to be refused as well."""
    fixture.tells("create", httpx.Response(status, json=body))
    with pytest.raises(ProviderPausedError, match=words):
        await fixture.provider.submit(FRESH)

    with pytest.raises(ProviderPausedError, match=words) as caught:
        await fixture.provider.submit(FRESH)

    assert caught.value.retry_after_s == 30
    assert words in (fixture.provider.paused or "")
    assert len(fixture.at("create")) == 1


async def test_a_key_that_works_again_is_noticed_by_a_free_question(
    fixture: ScriptedReplicate,
) -> None:
    """The account is asked for once in half a minute; then everything goes on."""
    fixture.tells("create", httpx.Response(401), httpx.Response(201, json=a_prediction()))
    fixture.tells("account", httpx.Response(401), httpx.Response(200, json={}))
    with pytest.raises(ProviderPausedError):
        await fixture.provider.submit(FRESH)
    fixture.clock.jump(31)
    with pytest.raises(ProviderPausedError):
        await fixture.provider.submit(FRESH)
    fixture.clock.jump(31)

    assert await fixture.provider.submit(FRESH) == "p1"

    assert (len(fixture.at("account")), len(fixture.at("create"))) == (2, 2)
    assert fixture.provider.paused is None


async def test_without_a_key_nobody_is_asked_anything(tmp_path: Path) -> None:
    """The message is the contract's."""
    fixture = ScriptedReplicate(tmp_path, settings={"key": ""})

    for call in (fixture.provider.submit(FRESH), fixture.provider.find(FRESH)):
        with pytest.raises(ProviderPausedError, match=r"^No Replicate API key configured$"):
            await call

    assert not fixture.asked


async def test_a_refused_input_is_told_in_the_providers_words(fixture: ScriptedReplicate) -> None:
    """422: it can never succeed, and nothing was started."""
    detail = "- input.duration: must be an integer"
    body = {"title": "Input validation failed", "detail": detail}
    fixture.tells("create", httpx.Response(422, json=body))

    with pytest.raises(
        ProviderRejectedError, match=r"input\.duration: must be an integer"
    ) as caught:
        await fixture.provider.submit(FRESH)

    assert not caught.value.retryable


async def test_the_list_is_read_over_its_pages_and_not_beyond_the_moment(
    fixture: ScriptedReplicate,
) -> None:
    """Newest first; the page after the one that reaches back far enough is not asked for."""
    other = a_prediction(id="p9", input={"prompt": "calm", "duration": 2, "seed": 9})
    purged = a_prediction(id="p8", input=None, data_removed=True)
    old = a_prediction(id="p7", created_at="2020-01-01T00:00:00Z")
    fixture.tells(
        "list",
        _page(other, following="https://evil.example/v1/predictions?cursor=abc"),
        _page(purged, {"status": "no id"}, old, following="https://evil.example/?cursor=def"),
    )

    assert await fixture.provider.find(FRESH) is None

    assert [one.url.host for one in fixture.asked] == ["api.replicate.com"] * 2
    assert fixture.asked[1].url.params["cursor"] == "abc"


async def test_a_list_too_long_to_be_read_says_so_instead_of_nothing(
    fixture: ScriptedReplicate,
) -> None:
    """Not finding is only believed at the end."""
    pages = iter(range(1, 1000))
    fixture.tells(
        "list",
        lambda _: _page(following=f"https://api.replicate.com/v1/predictions?cursor={next(pages)}"),
    )

    with pytest.raises(RetryableError, match="more than 100 pages"):
        await fixture.provider.find(FRESH)


async def test_of_two_predictions_with_one_seed_the_good_one_is_found(
    fixture: ScriptedReplicate,
) -> None:
    """One that was cancelled is only the last resort."""
    fixture.tells("list", _page(a_prediction(id="p2", status="canceled"), a_prediction()))

    assert await fixture.provider.find(FRESH) == "p1"


async def test_a_process_that_slept_between_claim_and_request_does_not_ask(tmp_path: Path) -> None:
    """Somebody else may have claimed since; frozen here while the clip was read."""
    fixture = ScriptedReplicate(tmp_path)
    source = fixture.provider._source

    async def frozen(request: object) -> object:
        fixture.clock.jump(60)
        return await source(request)  # type: ignore[arg-type]

    fixture.provider._source = frozen  # type: ignore[method-assign,assignment]

    with pytest.raises(ProviderBusyError, match="too long between claim and request"):
        await fixture.provider.submit(FRESH)

    assert not fixture.asked


async def test_the_moment_of_the_list_leaves_room_for_clocks_that_differ(
    fixture: ScriptedReplicate,
) -> None:
    """A clock of ours that is an hour ahead must not hide what was just made."""
    fixture.tells("create", httpx.ReadTimeout("silence"))
    fixture.tells("list", _page(a_prediction()))

    await fixture.provider.submit(FRESH)

    assert fixture.at("list")[0].url.params["created_after"] == "2025-12-31T22:55:00Z"
    assert json.loads(fixture.at("create")[0].content)["input"]["seed"] == 7
