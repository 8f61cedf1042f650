"""Finisher: from a sample's last step to a file, and the previews on the way, beside the loop.

One thread decodes latents, pictures of one size together; a few others write files. Finished pictures go first.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from PIL import Image

from configs.settings import EngineSettings
from models.errors import NotFinite
from pipelines.device import Side, free_cache, generation_error, is_out_of_memory, run_apart
from pipelines.families.base import Family
from pipelines.media import Provenance, encode_image
from pipelines.meter import EngineMeter
from pipelines.preparing import WAIT_S, Ready
from pipelines.previews import LatentColours
from pipelines.request import CONTENT_TYPES, GeneratedImage, Preview
from pipelines.sample import Sample

log = structlog.get_logger("darkroom.engine")

NUM_WRITERS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Latents to be turned into pixels."""

    sample: Sample
    ready: Ready
    latents: torch.Tensor
    step: int
    partial_index: int | None = None
    is_small: bool = False  # a preview; neither this nor a partial image: the finished picture

    @property
    def size(self) -> tuple[int, int]:
        return self.sample.width_px, self.sample.height_px


class Finisher:
    """Takes samples after a step; `let_go` is told of every finished one, whatever became of it."""

    def __init__(
        self,
        family: Family,
        colours: LatentColours,
        settings: EngineSettings,
        *,
        weights_sha256: str,
        let_go: Callable[[Ready], None],
        meter: EngineMeter,
    ) -> None:
        self._family = family
        self._colours = colours
        self._settings = settings
        self._weights_sha256 = weights_sha256
        self._let_go = let_go
        self._meter = meter
        self._side = Side(family.device)
        self._changed = threading.Condition()
        self._finished: deque[Piece] = deque()
        self._partial: deque[Piece] = deque()
        self._small: dict[Sample, Piece] = {}  # the newest of each sample is enough
        self._num_writing = 0
        self._is_closed = False
        self._writers = ThreadPoolExecutor(NUM_WRITERS, thread_name_prefix="writer")
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Finished pictures that are not yet files."""
        with self._changed:
            return len(self._finished) + self._num_writing

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._writers.shutdown(wait=True)

    def finish(self, sample: Sample, ready: Ready) -> None:
        """A sample after its last step."""
        with self._changed:
            self._small.pop(sample, None)
            self._finished.append(Piece(sample, ready, sample.latents, sample.step))
            self._changed.notify_all()

    def show(self, sample: Sample, ready: Ready) -> None:
        """A sample after any other step: a preview of it, if one is due."""
        every = self._settings.preview_every_steps
        is_small_due = every > 0 and sample.step % every == 0
        partial_index = due_partial(sample.step, sample.num_steps, sample.order.request.num_partial_images)
        if sample.denoised is None or (partial_index is None and not is_small_due):
            return
        piece = Piece(sample, ready, sample.denoised, sample.step, partial_index, is_small=partial_index is None)
        with self._changed:
            if partial_index is None:
                self._small[sample] = piece
            else:
                self._partial.append(piece)
            self._changed.notify_all()

    # In the finisher's own thread.

    def _run(self) -> None:
        with torch.inference_mode():
            while (pieces := self._next()) is not None:
                if pieces[0].is_small:  # its sample may have finished meanwhile
                    self._draw(pieces[0])
                else:
                    self._decode(pieces)
                del pieces  # while it waits for more, their memory is free

    def _next(self) -> "list[Piece] | None":
        """Waits for work: finished pictures of one size, or else partial ones, or else one small preview."""
        with self._changed:
            while not self._is_closed:
                for queue in (self._finished, self._partial):
                    if queue:
                        return self._take_one_size(queue)
                if self._small:
                    return [self._small.pop(next(iter(self._small)))]
                self._changed.wait(WAIT_S)
        return None

    def _take_one_size(self, queue: deque[Piece]) -> list[Piece]:
        size = queue[0].size
        room = max(1, self._settings.max_decode_px // (size[0] * size[1]))
        taken = [piece for piece in queue if piece.size == size][:room]
        for piece in taken:
            queue.remove(piece)
        self._num_writing += sum(piece.partial_index is None for piece in taken)
        return taken

    def _draw(self, piece: Piece) -> None:
        if piece.ready.ticket.is_over:
            return
        for _, error in run_apart([piece], self._draw_one, on_split=self._on_split):
            log.warning("preview not drawn", reason=str(error))  # the finished picture is what counts

    def _draw_one(self, pieces: Sequence[Piece]) -> None:
        piece = pieces[0]
        with self._side.work():
            latents = self._family.unpacked(piece.latents, *piece.size)
            jpeg = self._colours.draw(latents)
        piece.ready.ticket.show(Preview(piece.sample.order.image_index, piece.step, jpeg, "image/jpeg"))

    def _decode(self, pieces: Sequence[Piece]) -> None:
        """Pixels of all pieces; one that cannot be decoded fails alone."""
        began_s = time.perf_counter()
        wanted = [piece for piece in pieces if not piece.ready.ticket.is_over]
        pixels: dict[Piece, NDArray[np.float32]] = {}

        def decode(some: Sequence[Piece]) -> None:
            pixels.update(zip(some, self._pixels_of(some), strict=True))

        with self._side.work():
            failures = dict(run_apart(wanted, decode, on_split=self._on_split)) if wanted else {}
        decode_s = time.perf_counter() - began_s
        self._meter.decoded(len(pixels), decode_s)
        for piece in wanted:
            piece.ready.ticket.charge(decode_s / len(wanted))
        for piece in pieces:
            if piece in pixels:
                self._writers.submit(self._write, piece, pixels[piece])
            else:
                self._fail(piece, failures.get(piece))

    def _pixels_of(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        width_px, height_px = pieces[0].size
        latents = [piece.latents for piece in pieces]
        size = {"width_px": width_px, "height_px": height_px}
        is_large = width_px * height_px > self._settings.tile_above_px
        try:
            return self._family.decode(latents, **size, tiled=is_large)
        except (RuntimeError, MemoryError) as error:
            if len(pieces) > 1 or is_large or not is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback would hold the memory that ran out.
        free_cache(self._family.device)
        return self._family.decode(latents, **size, tiled=True)

    def _fail(self, piece: Piece, error: Exception | None) -> None:
        if piece.partial_index is not None:
            return  # the finished picture will tell
        if error is not None:
            piece.ready.ticket.fail(generation_error(error))
        self._end(piece)

    def _end(self, piece: Piece) -> None:
        with self._changed:
            self._num_writing -= 1
        self._let_go(piece.ready)

    def _on_split(self, _part: Sequence[Piece], error: Exception) -> None:
        self._meter.batch_split(type(error).__name__)

    # In a writer thread.

    def _write(self, piece: Piece, pixels_HWC: NDArray[np.float32]) -> None:
        order = piece.sample.order
        request, ticket = order.request, piece.ready.ticket
        try:
            if not np.isfinite(pixels_HWC).all():
                raise NotFinite("The model produced numbers that are not finite; no picture can be made of them.")
            data = encode_image(_to_image(pixels_HWC), self._provenance(piece))
            content_type = CONTENT_TYPES[request.output_format]
            if piece.partial_index is not None:
                ticket.show(Preview(order.image_index, piece.step, data, content_type, piece.partial_index))
                return
            height_px, width_px = pixels_HWC.shape[:2]
            digest = hashlib.sha256(data).hexdigest()
            ticket.keep(order.image_index, GeneratedImage(data, content_type, width_px, height_px, order.seed, digest))
        except Exception as error:  # noqa: BLE001 - the outermost frame of this thread; the request is told
            if piece.partial_index is None:
                ticket.fail(generation_error(error))
        finally:
            if piece.partial_index is None:
                self._end(piece)

    def _provenance(self, piece: Piece) -> Provenance:
        order = piece.sample.order
        return Provenance(
            request=order.request,
            seed=order.seed,
            sampler=self._family.sampler(order.request.scheduler),
            weights_sha256=self._weights_sha256,
            created=int(time.time()),
        )


def due_partial(step: int, num_steps: int, num_partial: int) -> int | None:
    """Which of the partial images shows the picture after `step`: they divide the steps evenly."""
    marks = [num_steps * (index + 1) // (num_partial + 1) for index in range(num_partial)]
    return marks.index(step) if step in marks and step < num_steps else None


def _to_image(pixels_HWC: NDArray[np.float32]) -> Image.Image:
    # The rounding of diffusers' own image processor, so that pixels are the same.
    return Image.fromarray((pixels_HWC * 255).round().astype("uint8"))
