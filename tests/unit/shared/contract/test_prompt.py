"""Scenes and wishes to prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contract.prompt import PROMPT_CHARS_MAX, TEMPLATE, Mood, mood_of, prompt_for

blanks = st.sampled_from([None, "", " ", "\n\t", "\x00"])
wishes = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=50)


def _prompt(
    description: str = "",
    *,
    mood: str | None = None,
    scene_prompt: str | None = None,
    run_prompt: str | None = None,
) -> str:
    return prompt_for(
        description=description, mood=mood, scene_prompt=scene_prompt, run_prompt=run_prompt
    )


@pytest.mark.parametrize(
    ("description", "phrase"),
    [
        ("An exciting race through the city", "upbeat and energetic"),
        ("Dynamic cuts of a skateboard trick", "upbeat and energetic"),
        ("A calm lake at dawn", "calm and peaceful"),
        ("Peaceful garden", "calm and peaceful"),
        ("DRAMATIC: the storm breaks", "dramatic and intense"),
        ("An intense stare", "dramatic and intense"),
        ("An elegant hotel lobby", "elegant and sophisticated"),
        ("Luxury watches on velvet", "elegant and sophisticated"),
        ("A man explains a chart", "professional and engaging"),
        ("", "professional and engaging"),
    ],
)
def test_a_description_fills_the_template_with_its_mood(description: str, phrase: str) -> None:
    """The five phrases, in the model's template."""
    assert _prompt(description) == (
        f"Cinematic background music, {phrase}, instrumental, seamless loop"
    )


@pytest.mark.parametrize("description", ["Warm bread", "A trace of salt", "The calmest reading"])
def test_only_whole_words_speak_of_a_mood(description: str) -> None:
    """War is not in warm, race not in trace."""
    assert mood_of(description) is Mood.PROFESSIONAL


def test_the_mood_with_most_words_wins() -> None:
    """One calm word does not outweigh two dramatic ones."""
    assert mood_of("Calm before the storm and the battle") is Mood.DRAMATIC


def test_at_a_tie_the_earlier_mood_wins() -> None:
    """The order in the text decides, not the order of our lists."""
    assert mood_of("a calm storm") is Mood.CALM
    assert mood_of("a storm, then calm") is Mood.DRAMATIC


@pytest.mark.parametrize("mood", list(Mood))
def test_a_template_prompt_is_understood_as_its_own_mood(mood: Mood) -> None:
    """What the template adds around a mood speaks of no other."""
    assert mood_of(TEMPLATE.format(mood=mood)) is mood


@pytest.mark.parametrize(
    ("mood", "phrase"),
    [
        ("Exciting/dynamic", Mood.EXCITING),
        ("calm and peaceful", Mood.CALM),
        ("  Luxury ", Mood.ELEGANT),
        ("professional", Mood.PROFESSIONAL),
        ("very dramatic", Mood.DRAMATIC),
    ],
)
def test_a_known_mood_of_a_scene_outweighs_its_description(mood: str, phrase: Mood) -> None:
    """A person who names a mood means it."""
    assert _prompt("a battle in a storm", mood=mood) == TEMPLATE.format(mood=phrase)


def test_an_unknown_mood_stands_in_the_template_as_it_was_written() -> None:
    """A model may know what we do not."""
    assert _prompt("a calm lake", mood=" wistful \n Ländler ") == TEMPLATE.format(
        mood="wistful Ländler"
    )


@given(wishes, wishes, st.text(), st.none() | wishes)
def test_a_written_prompt_wins_the_scenes_before_the_runs(
    scene: str, run: str, description: str, mood: str | None
) -> None:
    """Nothing is added to what somebody wrote."""
    assert _prompt(description, mood=mood, scene_prompt=scene, run_prompt=run) == scene
    assert _prompt(description, mood=mood, run_prompt=run) == run


@given(blanks, blanks, blanks)
def test_a_blank_is_no_wish(scene: str | None, run: str | None, mood: str | None) -> None:
    """An empty field in a form asks for nothing."""
    assert _prompt("a calm lake", mood=mood, scene_prompt=scene, run_prompt=run) == (
        TEMPLATE.format(mood=Mood.CALM)
    )


@given(st.text(max_size=6_000), st.none() | st.text(), st.none() | st.text(max_size=6_000))
def test_a_prompt_is_one_printable_line_of_bounded_length(
    description: str, mood: str | None, wish: str | None
) -> None:
    """Whatever is typed, the prompt is never empty and never breaks a log."""
    prompt = _prompt(description, mood=mood, scene_prompt=wish)

    assert 0 < len(prompt) <= PROMPT_CHARS_MAX
    assert prompt.isprintable()
    assert prompt == prompt.strip()
