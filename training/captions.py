"""What is said of each picture: what was given for it, else what the template, a captioner or nobody says. Pure."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pipelines.request import CaptionMode
from pipelines.work import WorkRefused
from training.recipe import CaptionPart

TRIGGER = "{trigger}"

Say = Callable[[Path], str]  # of the picture there


def make_say(mode: CaptionMode, part: CaptionPart, trigger: str, describe: Say | None) -> Say:
    """What speaks where nothing was given. `describe` is the captioner's; only the mode `model` asks it."""
    match mode:
        case "none":
            return lambda _: ""
        case "template":
            text = one_line(part.template.replace(TRIGGER, trigger))
            return lambda _: text
        case "model":
            if describe is None:
                raise WorkRefused("no_captioner", "This server has no captioner: training.captioner names none.")
            return lambda path: with_trigger(trigger, describe(path))


def with_trigger(trigger: str, text: str) -> str:
    """The trigger in front, unless the text has it already."""
    text = one_line(text)
    if not trigger or trigger.casefold() in text.casefold():
        return text
    return f"{trigger}, {text}" if text else trigger


def one_line(text: str) -> str:
    """Without doubled and outer white space."""
    return " ".join(text.split())


def check_given(given: Mapping[str, str], names: Collection[str]) -> None:
    """Raises WorkRefused for a caption of a picture that there is not: a slip of the pen would be lost otherwise."""
    if unknown := sorted(set(given) - set(names)):
        raise WorkRefused(
            "unknown_caption",
            f"There is no picture {unknown[0][:80]!r} to caption; there are {min(names)} to {max(names)}.",
        )
