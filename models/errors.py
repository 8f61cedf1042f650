"""What can go wrong choosing, loading or running a model. Knows no HTTP: serving translates these."""


class ModelError(Exception):
    """Root of everything that this room and the pipelines above it raise on purpose."""


class CatalogError(ModelError):
    """A catalogue file is wrong: bad YAML, unknown key, duplicate id. Stops the start."""


class UnknownModel(ModelError):
    """No such model id; says which exist."""

    def __init__(self, model_id: str, known: list[str]) -> None:
        super().__init__(f"The model {model_id!r} does not exist. Available: {', '.join(sorted(known)) or 'none'}.")
        self.model_id, self.known = model_id, sorted(known)


class WeightsError(ModelError):
    """Weights cannot be used: missing, wrong hash, a pickle, not a diffusers folder."""


class UnsafeWeights(WeightsError):
    """A pickle where only safetensors are allowed."""


class BlobError(ModelError):
    """The object store refused or did not answer."""


class BlobNotFound(BlobError):
    """No object at that key."""


class BlobChanged(BlobError):
    """Another object is at that key than the one that was asked for."""


class GenerationError(ModelError):
    """A request failed in the engine; `code` is stable and goes into the job."""

    code = "generation_failed"


class GenerationCancelled(GenerationError):
    code = "cancelled"


class NotFinite(GenerationError):
    """NaN or infinity in the latents or the picture."""

    code = "not_finite"


class OutOfMemory(GenerationError):
    code = "out_of_memory"


class AdapterError(GenerationError):
    """An adapter cannot be used with this model: damaged, of another family, or with keys that match nothing."""

    code = "bad_adapter"


class AdapterGone(AdapterError):
    """The adapter was deleted after the request that names it had been accepted."""

    code = "adapter_not_found"


class InputImageError(GenerationError):
    """The picture or the mask that a request starts from cannot be used."""

    code = "bad_image"


class SourceUnavailable(GenerationError):
    """The store did not give an adapter or a picture that the request needs; another time it may."""

    code = "source_unavailable"
