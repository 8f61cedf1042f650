"""The screen of prompts: what it lets pass, what it stops, and what nobody can hide from it with signs and letters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.moderation.lexicon import load_lexicon
from pipelines.moderation.scores import CATEGORIES
from pipelines.moderation.text import screen_text
from tests.pipelines.moderation.prompts import ABOUT_MINORS, HARMFUL, HARMLESS, NOT_ABOUT_MINORS

SEXUAL_THRESHOLD, MINORS_THRESHOLD = 0.8, 0.5


def test_the_tables_are_large_enough_to_mean_something() -> None:
    assert len(HARMLESS) >= 60
    assert len(HARMFUL) >= 40


@pytest.mark.parametrize("prompt", HARMLESS)
def test_a_harmless_prompt_passes(prompt: str) -> None:
    scores = screen_text(prompt)
    assert scores["sexual"] < SEXUAL_THRESHOLD
    assert scores["sexual/minors"] < MINORS_THRESHOLD


@pytest.mark.parametrize("prompt", HARMFUL)
def test_a_harmful_prompt_is_stopped(prompt: str) -> None:
    assert screen_text(prompt)["sexual"] >= SEXUAL_THRESHOLD


@pytest.mark.parametrize("prompt", ABOUT_MINORS)
def test_what_sexualises_minors_is_its_own_category(prompt: str) -> None:
    assert screen_text(prompt)["sexual/minors"] >= MINORS_THRESHOLD


@pytest.mark.parametrize("prompt", NOT_ABOUT_MINORS)
def test_what_is_about_adults_is_not_in_that_category(prompt: str) -> None:
    assert screen_text(prompt)["sexual/minors"] < MINORS_THRESHOLD


@pytest.mark.parametrize("prompt", [prompt for prompt in HARMFUL if prompt.isascii()])
def test_neither_case_nor_what_stands_around_it_changes_a_score(prompt: str) -> None:
    around = f"masterpiece, best quality, {prompt.upper()}, cinematic light, 85mm."
    assert screen_text(around)["sexual"] >= SEXUAL_THRESHOLD


def test_several_weak_words_say_more_than_one() -> None:
    one = screen_text("a sexy woman")["sexual"]
    several = screen_text("a sexy busty woman, seductive, cleavage, panties")["sexual"]
    assert 0 < one < SEXUAL_THRESHOLD <= several
    assert screen_text("sexy sexy sexy sexy sexy")["sexual"] == one


def test_a_medical_text_halves_doubtful_words_and_no_plain_ones() -> None:
    assert screen_text("the vagina")["sexual"] == pytest.approx(2 * screen_text("the vagina, anatomy")["sexual"])
    assert screen_text("porn in a hospital")["sexual"] == screen_text("porn")["sexual"]


@pytest.mark.parametrize("text", ["", " ", "\n", "...", "\u200b", "\ud800", "*" * 50, "@$!", "a" * 10_000, "無"])
def test_what_holds_no_words_has_a_score_too(text: str) -> None:
    assert screen_text(text) == dict.fromkeys(CATEGORIES, 0.0)


@given(st.text(max_size=300))
def test_any_text_has_scores_between_0_and_1(text: str) -> None:
    scores = screen_text(text)
    assert tuple(scores) == CATEGORIES
    assert all(0 <= score <= 1 for score in scores.values())


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece",
    ["no ", "a.", "a b c ", "s*x$ ", "nude ", "1 ", "12 years ", "aaaa ", "裸", "无裸体", "é\u0301", "n.s.f.", "@$"],
)
def test_the_time_grows_no_faster_than_the_text(piece: str) -> None:
    screen_text(piece * (200_000 // len(piece)))


def test_every_list_can_be_read_and_no_harmless_phrase_is_empty_talk() -> None:
    lexicon = load_lexicon()
    assert len(lexicon.phrases) > 500
    assert {"no", "ohne", "sans", "без"} <= lexicon.negations
