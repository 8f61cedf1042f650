"""Stills on their way into the store: blurred where they must be, kept under the keys of their attempt, all or none."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.blobs import BlobStore
from pipelines.frames.candidates import BadData, Candidate
from pipelines.frames.orders import Taken, TakenStill
from pipelines.moderation.blur import blur_picture
from pipelines.request import CONTENT_TYPES, OutputFormat, StoredFrame
from serving.adapters.store import in_store
from serving.errors import Unavailable
from serving.frames.judging import Verdict
from serving.telemetry import get_logger

log = get_logger("frames")

EXTENSIONS: dict[OutputFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
NUM_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Kept:
    """What an attempt has stored."""

    frames: tuple[StoredFrame, ...]
    contact_sheet: str  # its key


@dataclass(frozen=True, slots=True)
class _Piece:
    """A file, and where it goes."""

    path: Path
    key: str
    content_type: str
    is_blurred: bool = False


@dataclass(frozen=True, slots=True)
class _Stored:
    num_bytes: int
    sha256: str


class Shelf:
    """Where the stills of a job are kept."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def keep(
        self, prefix: str, folder: Path, taken: Taken, verdict: Verdict, output_format: OutputFormat
    ) -> Kept:
        """All keys begin with `prefix`, all files are in `folder`. Where one cannot be kept, none is: Unavailable."""
        chosen = _chosen(taken, verdict)
        keys = [f"{prefix}{number:03}.{EXTENSIONS[output_format]}" for number in range(len(chosen))]
        pieces = [
            _Piece(folder / still.file.name, key, CONTENT_TYPES[output_format], one.index in verdict.blurred)
            for key, (still, one) in zip(keys, chosen, strict=True)
        ]
        sheet = _Piece(folder / taken.contact_sheet.name, f"{prefix}sheet.jpg", CONTENT_TYPES["jpeg"])
        try:
            *stored, _ = await in_store(self._put_all, [*pieces, sheet])
        except BaseException:
            await self._remove([*pieces, sheet])
            raise
        rows = zip(pieces, stored, chosen, strict=True)
        return Kept(tuple(_frame(piece, done, *pair, verdict) for piece, done, pair in rows), sheet.key)

    def _put_all(self, pieces: Sequence[_Piece]) -> list[_Stored]:
        """In a thread, and some more of its own: the object store blocks."""
        with ThreadPoolExecutor(NUM_TOGETHER, thread_name_prefix="keep") as pool:
            return list(pool.map(self._put, pieces))

    def _put(self, piece: _Piece) -> _Stored:
        data = piece.path.read_bytes()
        if piece.is_blurred:
            data = blur_picture(data)
        self._blobs.put(piece.key, data, piece.content_type)
        return _Stored(len(data), hashlib.sha256(data).hexdigest())

    async def _remove(self, pieces: Sequence[_Piece]) -> None:
        try:
            await in_store(self._blobs.delete_many, [piece.key for piece in pieces])
        except Unavailable as error:
            # The caretaker finds them: their keys are those of an attempt that has not won.
            log.warning("half-kept stills not removed", keys=len(pieces), reason=error.message)


def _chosen(taken: Taken, verdict: Verdict) -> list[tuple[TakenStill, Candidate]]:
    """Each still with its scores. Nothing but what was chosen gets any further: it alone was looked at."""
    kept = {one.index: one for one in verdict.choice.kept}
    if [still.index for still in taken.stills] != list(kept):
        raise BadData("What was taken is not what was chosen.")
    return [(still, kept[still.index]) for still in taken.stills]


def _frame(piece: _Piece, stored: _Stored, still: TakenStill, one: Candidate, verdict: Verdict) -> StoredFrame:
    return StoredFrame(
        key=piece.key,
        content_type=piece.content_type,
        num_bytes=stored.num_bytes,
        sha256=stored.sha256,
        width_px=still.file.width_px,
        height_px=still.file.height_px,
        time_s=still.time_s,
        scene=one.scene,
        sharpness=one.sharpness,
        brightness=one.brightness,
        coverage=still.coverage,
        faces=still.faces,
        nsfw=verdict.scores.get(one.index),
        is_nsfw=one.index in verdict.flagged if one.index in verdict.scores else None,
    )
