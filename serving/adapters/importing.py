"""Somebody else's LoRA file becomes an adapter: receive → check → stage → let an engine try it → number → publish.

Nothing is visible before the last step, and whatever fails before it leaves nothing behind (serving/adapters/store.py).
"""

import asyncio
import hashlib
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Protocol

from configs.settings import Settings
from models.adapter_keys import Naming
from models.adapters import CONTENT_TYPE, AdapterManifest, check_file, publish
from models.blobs import BlobStore
from models.catalog import get_model
from models.errors import AdapterError, UnknownModel
from models.spec import ModelSpec
from pipelines.request import AdapterReport, StoredFile
from serving.adapters.adapter import Adapter, Draft, check_name
from serving.adapters.store import AdapterStore, in_store
from serving.errors import BadInput, NotFound, TooLarge
from serving.telemetry import get_logger

log = get_logger("adapters")

CHECK_TIMEOUT_S = 120.0  # an engine fetches the file and builds its matrices
CHUNK_BYTES = 1024 * 1024


class AdapterChecker(Protocol):
    """Whoever can ask an engine; the Api's link to the Router is one."""

    async def check_adapter(self, model_id: str, file: StoredFile, *, timeout_s: float) -> AdapterReport:
        """Raises AdapterError when the file does not fit the model, Unavailable when no engine looked."""
        ...


@dataclass(frozen=True, slots=True)
class AdapterOffer:
    """What the caller says of the file."""

    name: str
    base_model: str | None = None  # None: the server's default image model
    trigger: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Received:
    """The file here on disk, and what its header told."""

    path: Path
    sha256: str
    num_bytes: int
    naming: Naming


class AdapterImporter:
    """Stateless; a crash in the middle is cleared away by the tenant's next import or deletion."""

    def __init__(
        self,
        store: AdapterStore,
        blobs: BlobStore,
        checker: AdapterChecker,
        catalog: Mapping[str, ModelSpec],
        settings: Settings,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._checker = checker
        self._catalog = catalog
        self._settings = settings

    async def run(self, tenant: str, offer: AdapterOffer, file: BinaryIO) -> tuple[Adapter, bool]:
        """The new version and True, or False and the one that these bytes already are under this name and model."""
        spec = self._base_model(offer)
        check_name(offer.name, self._catalog)
        with TemporaryDirectory(prefix="darkroom-import-") as folder:
            with _bad_adapter_told():
                received = await asyncio.to_thread(
                    _receive, file, Path(folder) / "received", max_bytes=self._settings.api.max_adapter_bytes
                )
            draft = await self._store.begin(tenant, name=offer.name, base_model=spec.id, sha256=received.sha256)
            if isinstance(draft, Adapter):
                return draft, False
            try:
                adapter = await self._publish(draft, offer, spec, received)
            except BaseException:
                await self._store.abandon(draft)
                raise
        log.info("adapter imported", adapter=adapter.reference, model=spec.id, bytes=received.num_bytes)
        return adapter, True

    async def _publish(self, draft: Draft, offer: AdapterOffer, spec: ModelSpec, received: _Received) -> Adapter:
        staged = StoredFile(draft.staged_key, received.sha256)
        await in_store(self._blobs.put_file, staged.key, received.path, CONTENT_TYPE)
        with _bad_adapter_told():
            report = await self._checker.check_adapter(spec.id, staged, timeout_s=CHECK_TIMEOUT_S)
        folder = await self._store.number(draft)
        manifest = AdapterManifest(
            name=offer.name,
            version=folder.version,
            base_model=spec.id,
            family=spec.family,
            sha256=received.sha256,
            num_bytes=received.num_bytes,
            naming=received.naming,
            components=report.components,
            num_layers=report.num_layers,
            max_rank=report.max_rank,
            created_at=time.time(),
            source="import",
            trigger=offer.trigger,
            metadata=dict(offer.metadata),
        )
        await in_store(publish, self._blobs, folder, manifest, staged_key=staged.key)
        await in_store(self._blobs.delete, staged.key)
        return await self._store.finish(draft, manifest)

    def _base_model(self, offer: AdapterOffer) -> ModelSpec:
        try:
            spec = get_model(self._catalog, offer.base_model or self._settings.default_image_model)
        except UnknownModel as error:
            raise NotFound(str(error), param="base_model", code="model_not_found") from error
        if spec.kind != "image":
            raise BadInput(f"{spec.id} makes {spec.kind}; adapters are for image models.", param="base_model")
        return spec


def _receive(file: BinaryIO, path: Path, *, max_bytes: int) -> _Received:
    """Writes the stream to `path`, hashing on the way, and looks at what it is. Blocks."""
    digest = hashlib.sha256()
    num_bytes = 0
    with path.open("wb") as target:
        while chunk := file.read(CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise TooLarge(f"The file is larger than {max_bytes} bytes.", param="file")
            digest.update(chunk)
            target.write(chunk)
    return _Received(path, digest.hexdigest(), num_bytes, check_file(path))


@contextmanager
def _bad_adapter_told() -> Generator[None, None, None]:
    try:
        yield
    except AdapterError as error:
        raise BadInput(str(error), param="file", code=error.code) from error
