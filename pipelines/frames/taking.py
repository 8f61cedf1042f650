"""take(): the chosen stills at full size, and the contact sheet. Work for a process of its own; chooses nothing."""

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.frames.candidates import write_plain
from pipelines.frames.contact_sheet import draw_sheet
from pipelines.frames.orders import Taken, TakenStill, TakeOrder, WrittenFile
from pipelines.frames.scores import shrink
from pipelines.frames.sheet_sections import kept_tile, sections, subtitle, title
from pipelines.request import Face, OutputFormat
from pipelines.video.decoding import Video, open_video
from pipelines.video.info import VideoError
from pipelines.work import Tell, WorkRefused

ENDINGS: dict[OutputFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
SAVING: dict[OutputFormat, dict[str, Any]] = {
    "jpeg": {"quality": 95, "subsampling": "4:4:4"},
    "png": {"compress_level": 6},
    "webp": {"quality": 95, "method": 4},
}
SHEET_NAME, SHEET_QUALITY = "contact-sheet.jpg", 88
SHEET_TILE_PX = 400  # longer side of what stays of a still for the sheet
MIN_ASPECT, MAX_ASPECT = 0.4, 3.0  # of the sheet's tiles; what is longer gets a margin


def take(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """For the arguments of a TakeOrder, what is Taken; tells {"done", "of"} on the way."""
    order = TakeOrder.from_dict(arguments)
    try:
        with open_video(Path(order.path), num_threads=order.num_threads, hardware=order.hardware) as video:
            video.crop = order.crop
            return write_plain(_take(video, order, tell))
    except VideoError as error:
        raise WorkRefused(error.code, str(error)) from error


def _take(video: Video, order: TakeOrder, tell: Tell) -> Taken:
    folder = Path(order.folder)
    stills, tiles = [], []
    kept = sorted(order.kept, key=lambda wanted: wanted.time_s)
    for number, (wanted, still) in enumerate(zip(kept, video.take([one.time_s for one in kept]), strict=True)):
        picture = Image.fromarray(still.rgb)
        file = _write(picture, folder / f"frame-{number:02d}.{ENDINGS[order.format]}", order.format)
        faces = tuple(_face(box, picture) for box in wanted.faces)
        stills.append(TakenStill(wanted.index, still.time_s, file, faces, wanted.coverage))
        small = Image.fromarray(shrink(still.rgb, SHEET_TILE_PX))
        tiles.append(kept_tile(wanted, small, still.time_s, is_hidden=wanted.index in order.blurred))
        tell({"done": number + 1, "of": len(kept)})
    width_px, height_px = video.crop.size_px(video.info.width_px, video.info.height_px)
    sheet = draw_sheet(
        title(order),
        subtitle(video.info, (width_px, height_px)),
        list(sections(tiles, order, is_upright=width_px < height_px)),
        aspect=min(max(width_px / height_px, MIN_ASPECT), MAX_ASPECT),
    )
    return Taken(tuple(stills), _write(sheet, folder / SHEET_NAME, "jpeg", quality=SHEET_QUALITY))


def _write(picture: Image.Image, path: Path, kind: OutputFormat, **changes: int) -> WrittenFile:
    picture.save(path, kind, **(SAVING[kind] | changes))
    data = path.read_bytes()
    return WrittenFile(path.name, len(data), hashlib.sha256(data).hexdigest(), picture.width, picture.height)


def _face(box: tuple[float, float, float, float, float], picture: Image.Image) -> Face:
    left, top, width, height, score = box
    return Face(
        x=round(left * picture.width),
        y=round(top * picture.height),
        width=max(1, round(width * picture.width)),
        height=max(1, round(height * picture.height)),
        score=score,
    )
