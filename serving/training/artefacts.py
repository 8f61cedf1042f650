"""What a training keeps in the object store, and how it comes and goes: dataset, checkpoint, staged file.

The dataset belongs to the job; what lies below temp/ is there for an attempt that goes on where another was lost.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

from models.blobs import BlobStore
from models.errors import BlobNotFound
from pipelines.request import StoredFile
from serving.adapters.store import in_store
from serving.backends.base import Order
from serving.backends.training import TrainingError
from training.dataset import IMAGES, MANIFEST, REJECTED, Dataset, DatasetError, read_dataset, read_sources
from training.orders import ADAPTER, CHECKPOINT

T = TypeVar("T")

NUM_TOGETHER = 8
CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".safetensors": "application/octet-stream",
    ".zip": "application/zip",
}


def content_type_of(name: str) -> str:
    """By the ending of a file of ours."""
    return CONTENT_TYPES[PurePosixPath(name).suffix]


class Artefacts:
    """Those of one job."""

    def __init__(self, blobs: BlobStore, order: Order) -> None:
        self.blobs = blobs
        self.dataset_prefix = order.output_prefix
        self.temp_prefix = f"temp/{order.job_id}/"
        self.stills_prefix = f"{self.temp_prefix}stills/"
        self.checkpoint_key = f"{self.temp_prefix}{CHECKPOINT}"
        self.adapter_key = f"{self.temp_prefix}{ADAPTER}"
        self.fal_key = f"{self.temp_prefix}fal.json"  # what was asked of fal.ai
        self.archive_key = f"{self.temp_prefix}fal.zip"  # a dataset that goes there

    async def get(self, key: str) -> bytes | None:
        """None where there is nothing."""
        return await in_store(_or_none, self.blobs.get, key)

    async def put(self, key: str, data: bytes) -> None:
        await in_store(self.blobs.put, key, data, content_type_of(key))

    async def put_file(self, key: str, path: Path) -> StoredFile:
        """The file as it is in the store now."""
        await in_store(self.blobs.put_file, key, path, content_type_of(key))
        return StoredFile(key, await in_store(_sha256_of, path))

    async def manifest(self, prefix: str) -> StoredFile | None:
        """The manifest of a dataset, which is written last: where it is, the dataset is whole."""
        data = await self.get(prefix + MANIFEST)
        return None if data is None else StoredFile(prefix + MANIFEST, hashlib.sha256(data).hexdigest())

    async def fetch_dataset(self, prefix: str, folder: Path) -> Dataset:
        """All of a dataset into an empty folder, as the one who made it left it. TrainingError where it is gone."""
        try:
            return await in_store(self._fetch_dataset, prefix, folder)
        except DatasetError as error:
            raise TrainingError("bad_dataset", f"The dataset cannot be used: {error}") from error

    async def keep_dataset(self, folder: Path, dataset: Dataset, sheets: Iterable[tuple[str, str]]) -> StoredFile:
        """Its manifest. `sheets`: of each video, (upload id, key of its contact sheet)."""
        await in_store(self._keep_dataset, folder, dataset, list(sheets))
        return StoredFile(self.dataset_prefix + MANIFEST, await in_store(_sha256_of, folder / MANIFEST))

    async def forget_stills(self) -> None:
        """They are in the dataset now, or were not wanted there."""
        await in_store(self.blobs.delete_prefix, self.stills_prefix)

    async def fetch_checkpoint(self, folder: Path) -> bool:
        """Whether there is one; a file that is not whole never has its name."""
        part = folder / f"{CHECKPOINT}.part"
        if not await in_store(_is_there, self.blobs.get_file, self.checkpoint_key, part):
            part.unlink(missing_ok=True)
            return False
        part.replace(folder / CHECKPOINT)
        return True

    async def fetch(self, files: Iterable[tuple[StoredFile, Path]]) -> list[StoredFile]:
        """Brings files here; those that are not there any more, or are others by now, are returned."""
        return await in_store(self._fetch, list(files))

    def _fetch(self, files: list[tuple[StoredFile, Path]]) -> list[StoredFile]:
        has_come = self._all(self._fetch_one, files)
        return [file for (file, _), is_here in zip(files, has_come, strict=True) if not is_here]

    def _fetch_one(self, wanted: tuple[StoredFile, Path]) -> bool:
        file, path = wanted
        path.parent.mkdir(parents=True, exist_ok=True)
        return _is_there(self.blobs.get_file, file.key, path) and _sha256_of(path) == file.sha256

    def _fetch_dataset(self, prefix: str, folder: Path) -> Dataset:
        """In a thread, and some more of its own: the object store blocks."""
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        is_whole = self._fetch_names(prefix, folder, [REJECTED, MANIFEST])
        if is_whole:
            files = [file for source in read_sources((folder / MANIFEST).read_bytes()) for file in source.files]
            is_whole = self._fetch_names(prefix, folder, [name for file in files for name in (file, caption_of(file))])
        if not is_whole:
            raise TrainingError("dataset_gone", "The dataset was deleted.")
        return read_dataset(folder)

    def _fetch_names(self, prefix: str, folder: Path, names: list[str]) -> bool:
        return all(self._all(lambda name: _is_there(self.blobs.get_file, prefix + name, folder / name), names))

    def _keep_dataset(self, folder: Path, dataset: Dataset, sheets: list[tuple[str, str]]) -> None:
        """In a thread, and some more of its own."""
        names = [name for one in dataset.pictures for name in (one.file, caption_of(one.file))]
        self._all(lambda name: self._keep_one(folder, name), [*names, REJECTED])
        for upload_id, key in sheets:
            self.blobs.copy(key, f"{self.dataset_prefix}contact-{upload_id}.jpg")
        self._keep_one(folder, MANIFEST)

    def _keep_one(self, folder: Path, name: str) -> None:
        self.blobs.put_file(self.dataset_prefix + name, folder / name, content_type_of(name))

    def _all(self, action: Callable[..., T], items: Iterable[object]) -> list[T]:
        with ThreadPoolExecutor(NUM_TOGETHER, thread_name_prefix="artefacts") as pool:
            return list(pool.map(action, items))


def caption_of(file: str) -> str:
    """The text that lies beside a picture of a dataset."""
    return str(PurePosixPath(file).with_suffix(".txt"))


def _or_none(get: Callable[[str], bytes], key: str) -> bytes | None:
    try:
        return get(key)
    except BlobNotFound:
        return None


def _is_there(get_file: Callable[[str, Path], None], key: str, path: Path) -> bool:
    try:
        get_file(key, path)
    except BlobNotFound:
        return False
    return True


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
