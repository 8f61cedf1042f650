"""What a contact sheet says: its headings, which stills stand under which, and in what words. Draws nothing."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from pipelines.frames.candidates import REASONS, Reason
from pipelines.frames.contact_sheet import Section, Tile
from pipelines.frames.orders import TakeOrder, Unwanted, Wanted
from pipelines.frames.showing import ROW, row_of
from pipelines.video.info import VideoInfo

KEPT_COLUMNS = (6, 7, 5)  # the first of those that leave the smallest gap
MANY_KEPT, MANY_KEPT_COLUMNS = 60, (10,)
KEPT_NOTE = "with the sharpness of each, and how close the largest face is"
UPRIGHT_MORE = 2  # columns more where stills stand upright

GREEN = "#4ade80"
WORDS: dict[Reason, tuple[str, str, str]] = {  # heading, note, colour
    "transition": ("In between", "two scenes in one picture", "#a78bfa"),
    "too_dark": ("Too dark", "", "#64748b"),
    "too_bright": ("Too bright", "", "#fde68a"),
    "flat": ("Empty", "hardly any contrast", "#94a3b8"),
    "blurry": ("Blurry", "next to the rest of the scene, or less sharp than asked for", "#38bdf8"),
    "no_face": ("No face", "and faces were asked for", "#f472b6"),
    "nsfw": ("Unsafe", "hidden", "#f87171"),
    "duplicate": ("Seen already", "a sharper one shows the same", "#fbbf24"),
    "not_best": ("Not the sharpest", "of its part of the scene", "#fb923c"),
    "over_quota": ("No room", "more scenes are good than stills were asked for", "#9ca3af"),
}


def title(order: TakeOrder) -> str:
    """The caller's, or else how many were kept."""
    num_seen = len(order.kept) + len(order.rejected)
    return order.title or f"{len(order.kept):,} of {num_seen:,} stills kept"


def subtitle(info: VideoInfo, size_px: tuple[int, int]) -> str:
    """What video it is; `size_px` without its bars."""
    whole_px = (info.width_px, info.height_px)
    size = " x ".join(map(str, size_px)) + " px" + ("" if size_px == whole_px else f" of {whole_px[0]} x {whole_px[1]}")
    return f"{clock(info.duration_s)} of video · {size} · {info.codec}"


def kept_tile(wanted: Wanted, picture: Image.Image, time_s: float, *, is_hidden: bool) -> Tile:
    """One that was taken."""
    words = [*([wanted.coverage] if wanted.coverage else []), f"{wanted.sharpness:.0f}"]
    return Tile(
        picture=picture,
        left=clock(time_s),
        right=" · ".join(words),
        boxes=tuple((left, top, left + width, top + height) for left, top, width, height, _ in wanted.faces),
        is_hidden=is_hidden,
    )


def sections(kept: Sequence[Tile], order: TakeOrder, *, is_upright: bool) -> Iterator[Section]:
    """Those kept first, then a row for each reason that occurs."""
    more = UPRIGHT_MORE if is_upright else 0
    choices = KEPT_COLUMNS if len(kept) <= MANY_KEPT else MANY_KEPT_COLUMNS
    columns = min((number + more for number in choices), key=lambda number: -len(kept) % number)
    yield Section(f"Kept · {len(kept)}", KEPT_NOTE if kept else "none is good enough", GREEN, tuple(kept), columns)
    groups: defaultdict[Reason, list[Unwanted]] = defaultdict(list)
    for one in order.rejected:
        groups[one.reason].append(one)
    for reason in REASONS:
        if reason in groups:
            yield _rejected(reason, groups[reason], ROW + more, order)


def clock(time_s: float) -> str:
    """A time as people read it: 1:02.50."""
    minutes, hundredths = divmod(round(time_s * 100), 6_000)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else f"{minutes}") + f":{hundredths / 100:05.2f}"


def _rejected(reason: Reason, group: Sequence[Unwanted], num_columns: int, order: TakeOrder) -> Section:
    heading, note, colour = WORDS[reason]
    shown = row_of(group)
    return Section(
        heading=f"{heading} · {len(group):,}",
        note=note,
        colour=colour,
        tiles=tuple(_rejected_tile(one, order) for one in shown),
        num_columns=num_columns,
        num_more=len(group) - len(shown),
        is_faded=True,
    )


def _rejected_tile(one: Unwanted, order: TakeOrder) -> Tile:
    with Image.open(Path(order.folder) / one.thumbnail, formats=("JPEG",)) as picture:
        thumbnail = picture.convert("RGB")
    return Tile(thumbnail, clock(one.time_s), is_hidden=one.reason == "nsfw" or one.index in order.blurred)
