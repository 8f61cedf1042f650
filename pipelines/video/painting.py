"""Decoded frames → RGB arrays as a player shows them: range, matrix, tone, pixel aspect, turn, crop."""

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from pipelines.video.geometry import Turn, fitted
from pipelines.video.info import Transfer, VideoError
from pipelines.video.still import Crop, Pixels
from pipelines.video.tone_mapping import to_sdr

# Without these flags the scaler makes every picture darker by 1 to 1.5 of 255 and does not smooth colours; its PSNR on
# photographs is 2 to 4 dB lower. The detour over planes is the way for which it has fast code, to the same pixels.
ACCURATE = int(Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)
MATRICES = {1, 4, 5, 6, 7, 9}  # those of ITU-T H.273 that the scaler can undo; whatever else is said is not believed
MIN_HD_WIDTH_PX, MIN_HD_HEIGHT_PX = 1_280, 577  # what says nothing is BT.709 from this size on, and else BT.601
TRANSFERS: dict[int, Transfer] = {16: "pq", 18: "hlg"}  # ITU-T H.273

Frame = Any  # av.VideoFrame


@dataclass(frozen=True, slots=True)
class Look:
    """How frames of one stream are to be shown."""

    width_px: int  # before the turn, with square pixels
    height_px: int
    turn: Turn
    transfer: Transfer


class Painter:
    """Keeps the scalers between frames. Frames of another size than the first are scaled to it."""

    def __init__(self, look: Look, crop: Crop, *, side_px: int | None = None) -> None:
        self._look, self._crop = look, crop
        self._to_planes, self._to_pixels = VideoReformatter(), VideoReformatter()
        self._size_px = (look.width_px, look.height_px)
        if side_px is not None:
            kept_px = max(crop.size_px(*look.turn.size_px(*self._size_px)))
            self._size_px = fitted(*self._size_px, round(max(self._size_px) * min(1.0, side_px / kept_px)))

    def paint(self, frame: Frame) -> Pixels:
        """The frame as a player shows it."""
        try:
            return self._paint(frame)
        except av.MemoryError:
            raise
        except av.FFmpegError as error:
            message = (
                f"The video's pictures are of a kind ({frame.format.name}) that cannot be turned into colours here."
            )
            raise VideoError("unsupported_video", message) from error

    def _paint(self, frame: Frame) -> Pixels:
        is_sdr = self._look.transfer == "sdr"
        planes = self._scaled(frame, "gbrp" if is_sdr else "gbrp16le")
        packed = self._to_pixels.reformat(planes, format="rgb24" if is_sdr else "rgb48le", threads=1)
        pixels: np.ndarray = packed.to_ndarray()
        upright = self._look.turn.apply(pixels if is_sdr else to_sdr(pixels, self._look.transfer))
        return upright if self._crop.is_whole else self._crop.apply(upright)

    def _scaled(self, frame: Frame, pixel_format: str) -> Frame:
        width_px, height_px = self._size_px
        return self._to_planes.reformat(
            frame,
            width=width_px,
            height=height_px,
            format=pixel_format,
            src_colorspace=_matrix_of(frame),
            dst_colorspace=int(Colorspace.ITU709),  # RGB has none, but what is said of it must make sense
            interpolation=ACCURATE,
            threads=1,
        )


def _matrix_of(frame: Frame) -> int | None:
    """The matrix that the scaler has to undo where the frame names none that can be; None where it does."""
    if frame.colorspace in MATRICES or frame.format.is_rgb:
        return None
    is_hd = frame.width >= MIN_HD_WIDTH_PX or frame.height >= MIN_HD_HEIGHT_PX
    return int(Colorspace.ITU709 if is_hd else Colorspace.ITU601)
