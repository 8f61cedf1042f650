"""Captions: who speaks in which mode, and where the trigger word stands."""

from pathlib import Path

import pytest

from pipelines.work import WorkRefused
from training.captions import check_given, make_say, with_trigger
from training.recipe import CaptionPart

PICTURE = Path("0000.png")


def test_a_template_holds_the_trigger_and_nothing_else_is_replaced() -> None:
    part = CaptionPart(template="{trigger},  {other} {0}\n")
    assert make_say("template", part, "sks {trigger} 50%", None)(PICTURE) == "sks {trigger} 50%, {other} {0}"


def test_none_says_nothing() -> None:
    assert make_say("none", CaptionPart(), "sks", None)(PICTURE) == ""


def test_what_a_model_says_follows_the_trigger() -> None:
    say = make_say("model", CaptionPart(), "sks person", lambda path: f" a  man in {path.name}\n")
    assert say(PICTURE) == "sks person, a man in 0000.png"


@pytest.mark.parametrize(
    ("trigger", "text", "caption"),
    [("", "a man", "a man"), ("sks", "", "sks"), ("Sks", "a photo of sks", "a photo of sks")],
)
def test_the_trigger_is_said_once(trigger: str, text: str, caption: str) -> None:
    assert with_trigger(trigger, text) == caption


def test_a_mode_without_its_captioner_is_refused() -> None:
    with pytest.raises(WorkRefused, match="no captioner") as caught:
        make_say("model", CaptionPart(), "sks", None)
    assert caught.value.code == "no_captioner"


def test_a_caption_for_a_picture_that_there_is_not_is_refused() -> None:
    check_given({"0001.png": "x"}, ["0000.png", "0001.png"])
    with pytest.raises(WorkRefused, match="no picture '0002.png' to caption; there are 0000.png to 0001.png"):
        check_given({"0001.png": "x", "0002.png": "y"}, ["0000.png", "0001.png"])
