"""Captions: they say what the scene shows and nothing that it does not."""

import random
from pathlib import Path

from training.pretrain.captions import Scene, full_caption, with_article, write_caption
from training.pretrain.subjects import Subject

SUBJECTS = [
    Subject("red apple", ("fruit", "food", "red"), "food-fruit", Path("a.webp")),
    Subject("cat", ("pet", "whiskers"), "animal-mammal", Path("b.webp")),
]


def _many(scene: Scene) -> list[str]:
    rng = random.Random(0)
    return [write_caption(scene, SUBJECTS, rng) for _ in range(300)]


def test_a_coloured_background_is_always_named():
    assert all("sky blue background" in caption for caption in _many(Scene((0,), "sky blue", "usual")))


def test_white_may_go_without_saying():
    said = ["white background" in caption for caption in _many(Scene((0,), "white", "usual"))]
    assert 0.3 < sum(said) / len(said) < 0.7
    assert "a red apple" in _many(Scene((0,), "white", "usual"))


def test_placement_is_said_for_all_but_the_usual_one():
    assert not any("left" in caption or "small" in caption for caption in _many(Scene((1,), "white", "usual")))
    assert all("left" in caption for caption in _many(Scene((1,), "white", "left")))
    assert all("small" in caption or "tiny" in caption for caption in _many(Scene((1,), "white", "small")))


def test_a_pair_names_both_the_left_one_first():
    for caption in _many(Scene((1, 0), "white", "pair")):
        assert 0 <= caption.index("cat") < caption.index("red apple")


def test_articles_follow_the_label():
    labels = ["red apple", "egg", "grapes", "wine glass"]
    assert [with_article(label) for label in labels] == ["a red apple", "an egg", "grapes", "a wine glass"]


def test_the_full_caption_is_the_documented_one():
    assert full_caption("red apple", "sky blue") == "red apple, 3d emoji, on a sky blue background"
