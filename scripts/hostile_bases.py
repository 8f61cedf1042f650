"""The honest files that hostile ones are made from: small pictures and clips in every format, the same every time."""

import io
import tempfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import av
import numpy as np
from hostile_draft import zeros_packed
from PIL import Image

SIZE_PX = (320, 256)
NUM_FRAMES = 24
BOMB_SIDE_PX = 30_000
CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {  # ending: container, codec, options of the container
    "mp4": ("mp4", "libx264", {}),
    "mov": ("mov", "mpeg4", {}),
    "mkv": ("matroska", "libx264", {}),
    "webm": ("webm", "libvpx", {}),
    "avi": ("avi", "mpeg4", {}),
    "ts": ("mpegts", "mpeg2video", {}),
    "flv": ("flv", "flv", {}),
    "mpg": ("mpeg", "mpeg2video", {}),
    "wmv": ("asf", "wmv2", {}),
    "faststart.mp4": ("mp4", "libx264", {"movflags": "faststart"}),
    "fragments.mp4": ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
}
# Without these its bytes are not the same every time.
EXACT = {"libx264": {"threads": "1", "x264-params": "sync-lookahead=0:rc-lookahead=0:mbtree=0", "qp": "24"}}


@dataclass(frozen=True)
class Bases:
    """Made when first asked for."""

    @cached_property
    def picture(self) -> Image.Image:
        """A gradient with noise: what is cut off or flipped shows."""
        ramp = np.linspace(0, 200, SIZE_PX[0])[None, :, None] * np.ones((SIZE_PX[1], 1, 3))
        noise = np.random.default_rng(5).integers(0, 50, (SIZE_PX[1], SIZE_PX[0], 3))
        return Image.fromarray((ramp + noise).astype(np.uint8))

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """By ending."""
        see_through = self.picture.copy()
        see_through.putalpha(Image.linear_gradient("L").resize(SIZE_PX))
        return {
            "jpg": self.store("JPEG"),
            "progressive.jpg": self.store("JPEG", progressive=True),
            "png": self.store("PNG"),
            "alpha.png": encode(see_through, "PNG"),
            "webp": self.store("WEBP"),
            "lossless.webp": self.store("WEBP", lossless=True),
            "alpha.webp": encode(see_through, "WEBP"),
        }

    @cached_property
    def foreign_pictures(self) -> dict[str, bytes]:
        """Those that are not accepted, by ending."""
        return {ending: self.store(ending) for ending in ("gif", "tiff", "bmp", "avif", "ico")}

    @cached_property
    def clips(self) -> dict[str, bytes]:
        """By ending."""
        return {ending: clip(container, codec, options) for ending, (container, codec, options) in CLIPS.items()}

    @cached_property
    def bomb(self) -> bytes:
        """The pixels of 30,000 x 30,000 in one bit of one colour, packed to a thousandth."""
        return zeros_packed(BOMB_SIDE_PX * (1 + -(-BOMB_SIDE_PX // 8)))

    @cached_property
    def zeros(self) -> bytes:
        """A hundred million of them, packed."""
        return zeros_packed(100_000_000)

    def store(self, format: str, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
        return encode(self.picture, format, **options)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def clip(
    container: str,
    codec: str,
    options: dict[str, str],
    *,
    size: tuple[int, int] = SIZE_PX,
    num_frames: int = NUM_FRAMES,
) -> bytes:
    """One second of a ball that crosses the picture."""
    with tempfile.NamedTemporaryFile() as file:  # a true file: who moves the index to the front reads it again
        _write_clip(file.name, container, codec, options, size, num_frames)
        return file.read()


def _write_clip(
    path: str, container: str, codec: str, options: dict[str, str], size: tuple[int, int], num_frames: int
) -> None:
    with av.open(path, "w", format=container, options={"fflags": "+bitexact", **options}) as output:
        stream = output.add_stream(codec, rate=24)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p" if codec != "mjpeg" else "yuvj420p"
        stream.codec_context.thread_count = 1
        stream.options = EXACT.get(codec, {})
        for index in range(num_frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(_ball(size, index), format="rgb24")))
        output.mux(stream.encode(None))


def _ball(size: tuple[int, int], index: int) -> np.ndarray:
    width_px, height_px = size
    rows, columns = np.ogrid[:height_px, :width_px]
    distance = np.hypot(columns - width_px * index / NUM_FRAMES, rows - height_px / 2)
    picture = np.full((height_px, width_px, 3), 40, np.uint8)
    picture[distance < height_px / 4] = (220, 160, 30)
    return picture
