"""Prompts of scenes: explicit prompts, moods and the template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contract.mood_words import STEMS
from shared.contract.params import PromptStyle
from shared.contract.prompt import (
    _MOOD_OF_WORD,
    PROMPT_CHARS_MAX,
    TEMPLATE,
    Mood,
    mood_of,
    prompt_for,
)

blanks = st.sampled_from([None, "", " ", "\n\t", "\x00"])
texts = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=50)


def _prompt(
    description: str = "",
    *,
    mood: str | None = None,
    scene_prompt: str | None = None,
    run_prompt: str | None = None,
    style: PromptStyle = PromptStyle.CONTRACT,
) -> str:
    return prompt_for(
        description=description,
        mood=mood,
        scene_prompt=scene_prompt,
        run_prompt=run_prompt,
        style=style,
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
def test_the_template_contains_the_mood_of_the_description(description: str, phrase: str) -> None:
    """Each of the five moods has a phrase."""
    assert _prompt(description) == (
        f"Cinematic background music, {phrase}, instrumental, seamless loop"
    )


@pytest.mark.parametrize("description", ["Warm bread", "A trace of salt", "The calmest reading"])
def test_only_whole_words_count_for_a_mood(description: str) -> None:
    """For example, warm does not contain war, and trace does not contain race."""
    assert mood_of(description) is Mood.PROFESSIONAL


def test_the_mood_with_most_words_wins() -> None:
    """One calm word does not outweigh two dramatic ones."""
    assert mood_of("Calm before the storm and the battle") is Mood.DRAMATIC


def test_at_a_tie_the_earlier_mood_wins() -> None:
    """The order in the text counts, not the order of the word lists."""
    assert mood_of("a calm storm") is Mood.CALM
    assert mood_of("a storm, then calm") is Mood.DRAMATIC


@pytest.mark.parametrize("mood", list(Mood))
def test_a_template_prompt_has_its_own_mood(mood: Mood) -> None:
    """The fixed text of the template contains no mood word."""
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
def test_the_mood_of_a_scene_overrides_its_description(mood: str, phrase: Mood) -> None:
    """A known mood selects its phrase."""
    assert _prompt("a battle in a storm", mood=mood) == TEMPLATE.format(mood=phrase)


def test_an_unknown_mood_is_used_as_it_is() -> None:
    """The template contains it unchanged."""
    assert _prompt("a calm lake", mood=" wistful \n Ländler ") == TEMPLATE.format(
        mood="wistful Ländler"
    )


@given(texts, texts, st.text(), st.none() | texts)
def test_an_explicit_prompt_is_used_unchanged(
    scene: str, run: str, description: str, mood: str | None
) -> None:
    """The scene's prompt has priority over the run's."""
    assert _prompt(description, mood=mood, scene_prompt=scene, run_prompt=run) == scene
    assert _prompt(description, mood=mood, run_prompt=run) == run


@given(blanks, blanks, blanks)
def test_a_blank_field_is_ignored(scene: str | None, run: str | None, mood: str | None) -> None:
    """Blank prompts and moods count as missing."""
    assert _prompt("a calm lake", mood=mood, scene_prompt=scene, run_prompt=run) == (
        TEMPLATE.format(mood=Mood.CALM)
    )


@given(st.text(max_size=6_000), st.none() | st.text(), st.none() | st.text(max_size=6_000))
def test_a_prompt_is_one_printable_line_of_bounded_length(
    description: str, mood: str | None, prompt: str | None
) -> None:
    """For any input the prompt is not empty."""
    result = _prompt(description, mood=mood, scene_prompt=prompt)

    assert 0 < len(result) <= PROMPT_CHARS_MAX
    assert result.isprintable()
    assert result == result.strip()


LAKE = "Mist rises from a quiet lake"
FOREST = "A peaceful walk in the forest"


def test_scenes_with_one_mood_share_a_prompt_only_in_the_contracts_style() -> None:
    """The style `scene` adds the words of each scene."""
    contract = [_prompt(text) for text in (LAKE, FOREST)]
    scene = [_prompt(text, style=PromptStyle.SCENE) for text in (LAKE, FOREST)]

    assert (
        contract
        == ["Cinematic background music, calm and peaceful, instrumental, seamless loop"] * 2
    )
    assert scene == [f"{contract[0]}; for a scene that shows: {text}" for text in (LAKE, FOREST)]


def test_the_style_scene_adds_to_the_runs_prompt_and_not_to_the_scenes_own() -> None:
    """A scene's own prompt is used as it is, and so is the template without words."""
    style = PromptStyle.SCENE

    assert _prompt(LAKE, run_prompt="a harp", style=style) == (
        f"a harp; for a scene that shows: {LAKE}"
    )
    assert _prompt(LAKE, scene_prompt="a drum", run_prompt="a harp", style=style) == "a drum"
    assert _prompt(" \x00", style=style) == _prompt("")


@given(description=st.text(max_size=3000), run_prompt=blanks | st.text(max_size=3000))
def test_a_prompt_with_words_has_a_length_limit(description: str, run_prompt: str | None) -> None:
    """The model reads no more; the words are kept, and the prompt is one printable line."""
    prompt = _prompt(description, run_prompt=run_prompt, style=PromptStyle.SCENE)

    assert len(prompt) <= PROMPT_CHARS_MAX
    assert prompt.isprintable()


LANGUAGES = {
    "German": (
        "Eine rasante Verfolgungsjagd, alle feiern und jubeln",
        "Ein ruhiger See im Morgennebel",
        "Ein düsteres Gewitter, voller Gefahr",
        "Ein eleganter Ball mit edlem Schmuck",
    ),
    "French": (
        "Une fête joyeuse, on court rapidement",
        "Une forêt paisible au calme",
        "Une tempête terrifiante et sombre",
        "Un mariage élégant et raffiné",
    ),
    "Spanish": (
        "Una fiesta alegre y divertida",
        "Un amanecer tranquilo en la playa",
        "Una batalla oscura llena de peligro",
        "Un salón lujoso y refinado",
    ),
    "Italian": (
        "Una festosa danza, allegra e vivace",
        "Un bosco sereno al tramonto",
        "Una battaglia oscura e spaventosa",
        "Un lussuoso matrimonio raffinato",
    ),
    "Portuguese": (
        "Uma dança animada e divertida",
        "Um amanhecer calmo na floresta",
        "Uma batalha sombria cheia de perigo",
        "Um casamento luxuoso e requintado",
    ),
    "Japanese": ("楽しい祭りで踊る", "静かな湖の夕焼け", "暗い嵐と戦い", "優雅な舞踏会"),
    "Chinese": ("欢乐的庆祝和跳舞", "宁静的湖边日落", "黑暗的战争充满危险", "奢华典雅的婚礼"),
    "Hindi": (
        "उत्सव में खुशी और नृत्य",
        "शांत झील पर सूर्यास्त",
        "अंधेरे में युद्ध और खतरा",
        "भव्य और शाही विवाह",
    ),
    "Arabic": (
        "احتفال سعيد ورقص",
        "بحيرة هادئة وقت الغروب هدوء",
        "معركة في الظلام وخطر",
        "زفاف فاخر وأنيق",
    ),
    "English": (
        "A thrilling race with cheering fans",
        "A quiet lake at sunset",
        "A dark storm and a battle",
        "A luxurious wedding in a palace",
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_moods_are_recognised_in_each_language(language: str) -> None:
    """Four descriptions: exciting, calm, dramatic and elegant."""
    moods = [mood_of(text) for text in LANGUAGES[language]]

    assert moods == [Mood.EXCITING, Mood.CALM, Mood.DRAMATIC, Mood.ELEGANT]


def test_a_mood_in_another_language_becomes_the_templates_words() -> None:
    """The model reads English."""
    for mood, phrase in (("ruhig", "calm and peaceful"), ("優雅", "elegant and sophisticated")):
        prompt = prompt_for(description="", mood=mood, scene_prompt=None, run_prompt=None)

        assert prompt == TEMPLATE.format(mood=phrase)


def test_no_stem_is_the_beginning_of_a_word_of_another_mood() -> None:
    """Otherwise a word would have two moods, and English texts another one than before."""
    stems = {stem: name for name, text in STEMS.items() for stem in text.split()}
    assert len(stems) == sum(len(set(text.split())) for text in STEMS.values())
    clashes = [
        (stem, other)
        for stem, name in stems.items()
        for other, other_name in stems.items()
        if other.startswith(stem) and other_name != name
    ]
    clashes += [
        (stem, word)
        for stem, name in stems.items()
        for word, mood in _MOOD_OF_WORD.items()
        if word.startswith(stem) and mood.name != name
    ]

    assert clashes == []
    assert all(len(stem) >= 4 for stem in stems)
