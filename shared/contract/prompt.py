"""Builds the prompt of a scene.

An explicit prompt is used as it is, the scene's before the run's. Otherwise the template is filled
with a mood: the scene's own, or the mood of its description. Five moods have word lists in ten
languages; a text has the mood with most words in it, the earliest one at a tie, and `PROFESSIONAL`
without any.

Scenes with the same mood therefore have the same prompt. The style `scene` adds the words of the
scene's description to the template, and to the run's prompt.

Units: lengths are characters. Pure.
"""

import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum

from shared.contract.mood_words import PARTS, STEMS
from shared.contract.params import PromptStyle

PROMPT_CHARS_MAX = 2000  # the model reads about 500 tokens
MOOD_CHARS_MAX = 200
WORDS_CHARS_MAX = 1000  # of a description in a prompt
TEMPLATE = "Cinematic background music, {mood}, instrumental, seamless loop"
_WITH_WORDS = "{prompt}; for a scene that shows: {words}"


class Mood(StrEnum):
    """Mood of a scene; the value is its text in the prompt."""

    EXCITING = "upbeat and energetic"
    CALM = "calm and peaceful"
    DRAMATIC = "dramatic and intense"
    ELEGANT = "elegant and sophisticated"
    PROFESSIONAL = "professional and engaging"


_WORDS_OF: Mapping[Mood, str] = {
    Mood.EXCITING: """
        action adrenaline amazing athletic bouncy carnival catchy celebrate celebrating celebration
        cheer cheerful cheering chase chasing dance dancing dynamic energetic energizing energy
        excited excitement exciting exhilarating extreme fast festival festive fireworks
        fun groovy happy hype joy joyful jump jumping lively party playful pumped race racing rapid
        run running rush skate skateboard skating ski skiing speed speeding sport sporty sports
        sprint surf surfing thrill thrilling uplifting upbeat vibrant victory
    """,
    Mood.CALM: """
        ambient beach breath breathing breeze calm calming calmness chill cosy cozy cloud clouds
        dawn dreamy drifting ease easy forest garden gentle gently harmony lake lullaby meadow
        meditate meditation meditative mellow mindful mist morning nature peace peaceful peacefully
        pond quiet quietly relax relaxed relaxing rest restful river serene serenity silent sleep
        sleepy slow slowly snowfall soft softly soothing still stillness sunrise sunset tender
        tranquil tranquility waves yoga zen
    """,
    Mood.DRAMATIC: """
        aggressive apocalyptic battle brooding burning collapse conflict crash crisis danger
        dangerous dark darkness death desperate destruction doom drama dramatic eerie epic escape
        explosion fear fearsome fierce fight fighting fire fury gripping grim haunted haunting
        heroic horror intense intensity lightning menacing mysterious mystery nightmare ominous
        peril powerful rage revenge scary shadow shadows sinister storm stormy struggle suspense
        suspenseful tense tension terrifying threat thriller thunder thunderstorm tragedy tragic
        villain war warrior
    """,
    Mood.ELEGANT: """
        aristocratic ballet ballroom boutique champagne chandelier chic class classy couture crystal
        delicate diamond diamonds elegance elegant elegantly exclusive exquisite fashion fashionable
        gala glamorous glamour gold golden gourmet graceful jewel jewellery jewelry jewels lavish
        luxurious luxury mansion marble opulent palace pearl pearls perfume polished posh premium
        prestige prestigious refined regal rich romance romantic royal satin silk sophisticated
        sophistication stylish tasteful upscale velvet wedding wine yacht
    """,
    # only to recognise a given mood; a text without any mood word is professional
    Mood.PROFESSIONAL: """
        business confident corporate engaging informative inspiring motivating neutral office
        optimistic professional professionally technology
    """,
}
_MOOD_OF_WORD: Mapping[str, Mood] = {
    word: mood for mood, words in _WORDS_OF.items() for word in words.split()
}
_MOOD_OF_STEM: Mapping[str, Mood] = {
    stem: Mood[name] for name, stems in STEMS.items() for stem in stems.split()
}
_STEM_CHARS_MIN = min(map(len, _MOOD_OF_STEM))
_STEM_CHARS_MAX = max(map(len, _MOOD_OF_STEM))
_MOOD_OF_PART: Mapping[str, Mood] = {
    part: Mood[name] for name, parts in PARTS.items() for part in parts.split()
}
_BETWEEN_WORDS = frozenset({"and", "or", "but", "very", "more", "a", "the", "mood", "feeling"})
_WORD = re.compile(r"[^\W\d_]+")


def prompt_for(
    *,
    description: str,
    mood: str | None,
    scene_prompt: str | None,
    run_prompt: str | None,
    style: PromptStyle = PromptStyle.CONTRACT,
) -> str:
    """Return the scene's own prompt, else the run's, else the template; in `style`."""
    if own := _tidy(scene_prompt, chars_max=PROMPT_CHARS_MAX):
        return own
    shared = _tidy(run_prompt, chars_max=PROMPT_CHARS_MAX)
    prompt = shared or TEMPLATE.format(mood=_mood_text(mood) or mood_of(description))
    words = _tidy(description, chars_max=WORDS_CHARS_MAX)
    if style is PromptStyle.CONTRACT or not words:
        return prompt
    start = prompt[: PROMPT_CHARS_MAX - len(_WITH_WORDS) - len(words)].rstrip()
    return _WITH_WORDS.format(prompt=start, words=words)


def mood_of(text: str) -> Mood:
    """Return the mood with most words in `text`; the earliest at a tie."""
    moods = [_mood_of_word(word) for word in _words(text)] + _moods_of_parts(text)
    votes = [mood for mood in moods if mood not in {None, Mood.PROFESSIONAL}]
    # max keeps the first of equals
    return max(votes, key=votes.count, default=None) or Mood.PROFESSIONAL


def _mood_text(mood: str | None) -> str:
    """Return the template's text for a given mood; "" without one."""
    tidy = _tidy(mood, chars_max=MOOD_CHARS_MAX)
    if _moods_of_parts(tidy):
        return mood_of(tidy)
    mood_words = [word for word in _words(tidy) if word not in _BETWEEN_WORDS]
    if mood_words and all(_mood_of_word(word) for word in mood_words):
        return mood_of(tidy)
    return tidy


def _mood_of_word(word: str) -> Mood | None:
    """Return the mood of an English word, or of a word with a known stem."""
    known = _MOOD_OF_WORD.get(word)
    if known is not None:
        return known
    lengths = range(min(len(word), _STEM_CHARS_MAX), _STEM_CHARS_MIN - 1, -1)
    return next((_MOOD_OF_STEM[word[:n]] for n in lengths if word[:n] in _MOOD_OF_STEM), None)


def _moods_of_parts(text: str) -> list[Mood]:
    """Return the moods of words in a script without spaces or with attached particles."""
    if text.isascii():
        return []
    return [mood for part, mood in _MOOD_OF_PART.items() for _ in range(text.count(part))]


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _tidy(text: str | None, *, chars_max: int) -> str:
    """Return `text` on one line, without unprintable characters, cut to length."""
    plain = "".join(char if char.isprintable() else " " for char in text or "")
    return " ".join(plain.split())[:chars_max].rstrip()
