"""A picture file taken apart: what its pixels need, and what is known beside them. Nothing is decoded for this."""

from dataclasses import dataclass
from typing import Literal

from pipelines.work import WorkRefused

PictureFormat = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True, slots=True)
class PictureParts:
    """One picture; `pixels` is a file of the same format that holds nothing else."""

    format: PictureFormat
    pixels: bytes
    width_px: int  # as stored, before any turning
    height_px: int
    exif: bytes | None
    icc: bytes | None
    is_animated: bool
    is_lossless: bool
    is_complete: bool  # its end is there
    has_private_data: bool  # anything beside pixels and colours


def damaged(words: str) -> WorkRefused:
    """A picture that contradicts itself."""
    return WorkRefused("damaged", f"The picture is damaged: {words}.")


def cut_off() -> WorkRefused:
    """A picture whose beginning is all there is."""
    return WorkRefused("truncated", "The picture is not complete: the file ends before the picture does.")
