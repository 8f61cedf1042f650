"""The work of looking at one file that a client sent: what it is, whether it may stay, and what may be kept of it.

Runs in the sandbox (`pipelines.intake.look:look`): what it opens was made by anybody.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.intake.cleaning import PictureLimits, clean_picture
from pipelines.intake.kinds import HEAD_BYTES, UNKNOWN, Kind, kind_of
from pipelines.video.info import VideoError, VideoInfo, VideoLimits
from pipelines.video.probing import probe
from pipelines.work import Tell, WorkRefused

THUMBNAIL_TYPE = "image/webp"


@dataclass(frozen=True, slots=True)
class LookLimits:
    """Limits of a tenant, as its settings name them."""

    min_image_px: int
    max_image_px: int
    thumbnail_px: int
    max_video_s: float
    max_video_px: int

    @property
    def of_pictures(self) -> PictureLimits:
        return PictureLimits(self.min_image_px, self.max_image_px, self.thumbnail_px)

    @property
    def of_videos(self) -> VideoLimits:
        return VideoLimits(max_s=self.max_video_s, max_px=self.max_video_px)


def look(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    """{"media": …} of the file at "path", which was announced with "purpose" image or video.

    For images also "content_type", and in "folder" the files "cleaned" and "thumbnail". Raises WorkRefused.
    """
    path, purpose = Path(arguments["path"]), arguments["purpose"]
    limits = LookLimits(**arguments["limits"])
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise WorkRefused("empty_file", "The file is empty.")
    kind = kind_of(head)
    if purpose == "video":
        return _look_at_video(path, kind, limits.of_videos)
    return _look_at_picture(path, kind, limits.of_pictures, Path(arguments["folder"]))


def _look_at_picture(path: Path, kind: Kind, limits: PictureLimits, folder: Path) -> dict[str, Any]:
    if kind.family == "video":
        raise _mismatch("image", kind)
    if not kind.format:
        raise WorkRefused("bad_image", f"The file is {kind.words}; JPEG, PNG and WebP pictures are accepted.")
    picture = clean_picture(path.read_bytes(), kind.format, limits)
    cleaned, thumbnail = folder / f"cleaned.{kind.format}", folder / "thumbnail.webp"
    cleaned.write_bytes(picture.cleaned)
    thumbnail.write_bytes(picture.thumbnail)
    media = {
        "kind": "image",
        "width": picture.width_px,
        "height": picture.height_px,
        "codec": kind.format,
        "orientation": picture.exif.orientation,
        "taken_at": picture.exif.taken_at,
        "had_private_data": picture.had_private_data,
    }
    return {
        "media": media,
        "content_type": picture.content_type,
        "cleaned": str(cleaned),
        "thumbnail": str(thumbnail),
        "thumbnail_type": THUMBNAIL_TYPE,
    }


def _look_at_video(path: Path, kind: Kind, limits: VideoLimits) -> dict[str, Any]:
    if kind.family == "picture":
        raise _mismatch("video", kind)
    if kind.family == "other" and kind != UNKNOWN:
        raise WorkRefused("not_a_video", f"A video is needed; the file is {kind.words}.")
    try:
        return {"media": _describe(probe(path, limits))}
    except VideoError as error:
        raise WorkRefused(error.code, str(error)) from error


def _describe(info: VideoInfo) -> dict[str, Any]:
    return {
        "kind": "video",
        "width": info.width_px,
        "height": info.height_px,
        "duration_s": info.duration_s,
        "fps": info.fps,
        "rotation": info.rotation,
        "codec": info.codec,
        "container": info.container,
        "num_frames": info.num_frames,
        "transfer": info.transfer,
        "bit_depth": info.bit_depth,
    }


def _mismatch(purpose: Literal["image", "video"], kind: Kind) -> WorkRefused:
    article = "an image" if purpose == "image" else "a video"
    return WorkRefused(
        "type_mismatch", f"The type does not match the bytes: announced as {article}, it is {kind.words}."
    )
