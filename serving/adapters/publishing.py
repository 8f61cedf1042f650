"""What a training has made becomes `name@version`: draft → an engine tries it → number → file, manifest → commit.

Every step may be repeated by another attempt at the same job, which goes on where the last one broke off; a job that
has published gets the same version again. What a job leaves behind that never will is cleared away after it
(serving/jobs/caretaker.py).
"""

import hashlib
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from models.adapter_keys import Naming, naming_of, place_of, read_layers
from models.adapters import AdapterLineage, AdapterManifest, AdapterSource, hash_file, publish
from models.blobs import BlobStore
from models.errors import AdapterError, BlobError, GenerationError
from models.safetensors_file import read_header
from models.spec import Family, ModelSpec
from pipelines.request import AdapterReport, StoredFile, TrainedAdapter
from serving.adapters.adapter import Adapter, Draft
from serving.adapters.importing import CHECK_TIMEOUT_S, AdapterChecker
from serving.adapters.store import AdapterStore, in_store
from serving.errors import Conflict, Unavailable
from serving.insisting import insist
from serving.jobs.job import Job, folder_of
from serving.telemetry import get_logger
from training.dataset import DatasetError, read_sources
from training.recipe import Recipe, RecipeError

log = get_logger("adapters")

PAUSE_S = 1.0
DENOISERS: dict[Family, str] = {"sd": "unet", "sdxl": "unet"}  # all others have a transformer


class PublicationRefused(GenerationError):
    """What was trained cannot be published, now or later."""

    code = "bad_adapter"


@dataclass(frozen=True, slots=True)
class _Looked:
    """What the file is by its own header, and to an engine where there is one."""

    naming: Naming
    report: AdapterReport


class AdapterPublisher:
    """One for each Router."""

    def __init__(
        self,
        store: AdapterStore,
        blobs: BlobStore,
        checker: AdapterChecker,
        catalog: Mapping[str, ModelSpec],
        *,
        served: Container[str],
        insist_s: float,
    ) -> None:
        """`served`: models that engines here could try a file with; others were trained by a provider.

        `insist_s`: how long it goes on asking for an engine, since what was trained is worth waiting for.
        """
        self._store = store
        self._blobs = blobs
        self._checker = checker
        self._catalog = catalog
        self._served = served
        self._insist_s = insist_s

    async def publish(self, job: Job, made: TrainedAdapter) -> Adapter:
        """The version of this job. Raises PublicationRefused, Unavailable, BlobError."""
        request = job.training
        draft = await self._store.begin_trained(
            job.tenant,
            user=folder_of(job.user),
            name=request.name,
            base_model=request.base_model,
            job=job.id,
            fence=job.fence,
        )
        if isinstance(draft, Adapter):
            return draft
        try:
            adapter = await self._publish(draft, job, made)
        except (AdapterError, DatasetError, RecipeError) as error:
            raise PublicationRefused(str(error)) from error
        except Conflict as error:  # another attempt has taken over, or the job is over and was cleared up after
            raise Unavailable(error.message, code=error.code) from error
        log.info("adapter published", adapter=adapter.reference, model=request.base_model, bytes=made.num_bytes)
        return adapter

    async def _publish(self, draft: Draft, job: Job, made: TrainedAdapter) -> Adapter:
        looked = await self._look(job.training.base_model, made)
        lineage = await in_store(self._lineage, job, made)
        folder = await self._store.number(draft, uploads=[source.upload_id for source in lineage.sources])
        manifest = AdapterManifest(
            name=job.training.name,
            version=folder.version,
            base_model=job.training.base_model,
            family=self._catalog[job.training.base_model].family,
            sha256=made.file.sha256,
            num_bytes=made.num_bytes,
            naming=looked.naming,
            components=looked.report.components,
            num_layers=looked.report.num_layers,
            max_rank=looked.report.max_rank,
            created_at=time.time(),
            source=job.id,
            trigger=job.training.trigger,
            lineage=lineage,
        )
        await in_store(publish, self._blobs, folder, manifest, staged_key=made.file.key)
        return await self._store.finish(draft, manifest)

    async def _look(self, base_model: str, made: TrainedAdapter) -> _Looked:
        naming, report = await in_store(self._look_inside, base_model, made)
        if base_model in self._served:
            report = await insist(
                lambda: self._checker.check_adapter(base_model, made.file, timeout_s=CHECK_TIMEOUT_S),
                for_s=self._insist_s,
                pause_s=PAUSE_S,
                what="check of an adapter",
            )
        return _Looked(naming, report)

    # In a thread: the object store blocks.

    def _look_inside(self, base_model: str, made: TrainedAdapter) -> tuple[Naming, AdapterReport]:
        """What the header says of the very bytes that are published; AdapterError when they are damaged or no LoRA."""
        with TemporaryDirectory(prefix="darkroom-publish-") as folder:
            path = Path(folder) / "staged"
            self._blobs.get_file(made.file.key, path)
            if hash_file(path) != made.file.sha256:
                raise BlobError(f"get {made.file.key}: its bytes are not the ones that were trained")
            layers = read_layers(read_header(path).tensors)
        denoiser = DENOISERS.get(self._catalog[base_model].family, "transformer")
        components = [denoiser if (c := place_of(layer.module).component) == "denoiser" else c for layer in layers]
        return naming_of(layers), AdapterReport(
            num_layers=len(layers),
            max_rank=max(layer.rank for layer in layers),
            components=tuple(dict.fromkeys(components)),
            num_bytes=made.num_bytes,
        )

    def _lineage(self, job: Job, made: TrainedAdapter) -> AdapterLineage:
        sources = read_sources(_whole(self._blobs, made.manifest))
        return AdapterLineage(
            job=job.id,
            dataset=made.manifest.key,
            dataset_sha256=made.manifest.sha256,
            recipe=job.training.recipe,
            recipe_sha256=Recipe.from_json(job.training.recipe_json).sha256,
            base_sha256=made.weights_sha256,
            sources=tuple(AdapterSource(s.upload_id, s.sha256, s.kind, s.times_s) for s in sources),
        )


def _whole(blobs: BlobStore, file: StoredFile) -> bytes:
    """Its bytes; BlobError where they are others."""
    data = blobs.get(file.key)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise BlobError(f"get {file.key}: its bytes are not the ones that were written")
    return data
