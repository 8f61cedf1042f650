"""Opens a video file with the demuxer that its first bytes call for, and nothing else: no other file, no address.

Gives packets, one after the other; a stretch that cannot be read is skipped.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.stream import Discard, Disposition

from pipelines.video.boxes import check_index
from pipelines.video.info import VideoError
from pipelines.video.sniffing import NUM_BYTES, sniff

MAX_DECODED_PX = 2**26  # a frame that claims more is refused by the decoder before it asks for the memory
MAX_READ_ERRORS = 50  # in a row, after which the rest of a file counts as unreadable
NO_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
OPTIONS = {
    "max_pixels": str(MAX_DECODED_PX),
    "protocol_whitelist": "none",  # a name that no protocol has
    "enable_drefs": "0",  # QuickTime's references to other files
    "use_absolute_path": "0",
}


class Source:
    """One video stream of a file, opened for reading from its beginning."""

    def __init__(self, path: Path, *, accelerator: Any = None) -> None:  # noqa: ANN401 - av.codec.hwaccel.HWAccel
        self._closing = contextlib.ExitStack()
        file = self._closing.enter_context(path.open("rb", buffering=0))
        try:
            self.demuxer = sniff(file.read(NUM_BYTES))
            check_index(path, self.demuxer)
            file.seek(0)
            self.container = self._closing.enter_context(_open(file, self.demuxer, accelerator))
            self.stream = choose_stream(self.container)
        except BaseException:
            self._closing.close()
            raise
        for other in self.container.streams:
            if other.index != self.stream.index:
                other.discard = Discard.all

    @property
    def decoder(self) -> Any:  # noqa: ANN401 - av.VideoCodecContext
        return self.stream.codec_context

    def packets(self) -> Iterator[Any]:
        """The stream's packets in the order they lie in the file, without empty ones."""
        num_errors = 0
        while num_errors < MAX_READ_ERRORS:
            try:
                for packet in self.container.demux(self.stream):
                    num_errors = 0
                    if packet.size:
                        yield packet
                return
            except av.FFmpegError:
                num_errors += 1
            except IndexError:
                return  # how PyAV ends where more streams turned up on the way than there were at first

    def close(self) -> None:
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_container(path: Path, *, accelerator: Any = None) -> Source:  # noqa: ANN401 - av.codec.hwaccel.HWAccel
    """Raises VideoError where the file is no video, or none that can be opened."""
    return Source(path, accelerator=accelerator)


def choose_stream(container: Any) -> Any:  # noqa: ANN401 - PyAV
    """The one a player takes: what is marked as default, among those the largest; never a cover picture."""
    streams = [stream for stream in container.streams.video if not stream.disposition & NO_PICTURES]
    if not streams:
        raise VideoError("not_a_video", "The file holds no moving pictures.")
    playable = [stream for stream in streams if stream.codec_context is not None]
    if not playable:
        raise VideoError("unsupported_video", "The video is coded in a way that no decoder here can read.")
    return max(playable, key=lambda stream: (bool(stream.disposition & Disposition.default), _coded_px(stream)))


def _coded_px(stream: Any) -> int:  # noqa: ANN401 - PyAV
    return int(stream.codec_context.width) * int(stream.codec_context.height)


def _open(file: Any, demuxer: str, accelerator: Any) -> Any:  # noqa: ANN401 - PyAV
    try:
        # Bytes of names and titles that are not UTF-8 are left out: they must not keep the pictures from being read.
        return av.open(
            file,
            format=demuxer,
            options=OPTIONS,
            io_open=_refuse,
            metadata_errors="ignore",
            hwaccel=accelerator,
        )
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("damaged", "The video cannot be opened: its header makes no sense.") from error


def _refuse(url: str, _flags: int, _options: dict[str, str]) -> None:
    del url
    raise VideoError("unsupported_video", "The video points at another file, and such are never opened.")
