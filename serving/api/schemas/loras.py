"""Adapters as clients see them, and what may be said of a file that is imported."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, Field, RootModel

from serving.adapters.adapter import Adapter

LoraFormat = Literal["diffusers", "kohya"]


class ImportMetadata(RootModel[dict[str, str]]):
    """A JSON object of texts, within OpenAI's limits."""

    root: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$")],
            Annotated[str, Field(max_length=512, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")],
        ],
        Field(max_length=16),
    ]


class LineageUpload(BaseModel):
    """An upload that was learned from; it may be deleted by now."""

    id: str
    kind: Literal["video", "image"]
    sha256: str
    times_s: list[float] = Field(description="Of the stills, from the first frame of a video.")


class Lineage(BaseModel):
    """Where a version comes from; what only a training knows is null for one that was imported."""

    source: str = Field(description='"import", or the id of the job that trained it.')
    import_id: str | None
    job_id: str | None = None
    recipe: str | None = None
    recipe_sha256: str | None = Field(None, description="Of all its values.")
    base_sha256: str | None = Field(None, description="Of the weights that were trained upon.")
    dataset_url: str | None = Field(None, description="Of manifest.json: each picture, where it is from, its caption.")
    dataset_sha256: str | None = Field(None, description="Of that manifest.")
    uploads: list[LineageUpload] | None = None


class LoraVersionBody(BaseModel):
    """One immutable version."""

    id: str = Field(description="What `loras` in a request may name.", examples=["alice-style@2"])
    object: Literal["lora.version"] = "lora.version"
    name: str
    version: int
    created_at: int
    base_model: str
    family: str
    trigger: str | None
    sha256: str
    bytes: int
    format: str = Field(description="Naming of the keys in the file: diffusers, kohya, comfyui or other.")
    components: list[str]
    layers: int
    max_rank: int
    metadata: dict[str, str]
    lineage: Lineage


class LoraBody(BaseModel):
    """An adapter: its latest version and all there are, newest first."""

    id: str = Field(description="The name; in a request it means the latest version.", examples=["alice-style"])
    object: Literal["lora"] = "lora"
    name: str
    latest: str = Field(examples=["alice-style@2"])
    base_model: str
    trigger: str | None
    created_at: int
    versions: list[LoraVersionBody]


class LoraList(BaseModel):
    object: Literal["list"] = "list"
    data: list[LoraBody]


class LoraModelBody(BaseModel):
    """An adapter in the list of models."""

    id: str = Field(description="The name: it stays the same over versions, and `loras` in a request takes it.")
    object: Literal["model"] = "model"
    owned_by: str
    created: int
    kind: Literal["lora"] = "lora"
    family: str
    ready: bool
    title: str
    root: str = Field(description="The version that the id means now.", examples=["alice-style@2"])
    parent: str = Field(description="The model it adapts.")
    trigger: str | None


def version_body(adapter: Adapter, sign: Callable[[str], str]) -> LoraVersionBody:
    """`sign` makes a URL of an object's key."""
    manifest = adapter.manifest
    return LoraVersionBody(
        id=adapter.reference,
        name=adapter.name,
        version=adapter.version,
        created_at=int(manifest.created_at),
        base_model=manifest.base_model,
        family=manifest.family,
        trigger=manifest.trigger,
        sha256=manifest.sha256,
        bytes=manifest.num_bytes,
        format=manifest.naming,
        components=list(manifest.components),
        layers=manifest.num_layers,
        max_rank=manifest.max_rank,
        metadata=dict(manifest.metadata),
        lineage=_lineage(adapter, sign),
    )


def _lineage(adapter: Adapter, sign: Callable[[str], str]) -> Lineage:
    made_of, source = adapter.manifest.lineage, adapter.manifest.source
    if made_of is None:
        return Lineage(source=source, import_id=adapter.folder.job if source == "import" else None)
    uploads = [
        LineageUpload(id=one.upload_id, kind=one.kind, sha256=one.sha256, times_s=list(one.times_s))
        for one in made_of.sources
    ]
    return Lineage(
        source=source,
        import_id=None,
        job_id=made_of.job,
        recipe=made_of.recipe,
        recipe_sha256=made_of.recipe_sha256,
        base_sha256=made_of.base_sha256,
        dataset_url=sign(made_of.dataset),
        dataset_sha256=made_of.dataset_sha256,
        uploads=uploads,
    )


def lora_body(versions: list[Adapter], sign: Callable[[str], str]) -> LoraBody:
    """From all versions of one name."""
    ordered = sorted(versions, key=lambda adapter: -adapter.version)
    latest = ordered[0]
    return LoraBody(
        id=latest.name,
        name=latest.name,
        latest=latest.reference,
        base_model=latest.manifest.base_model,
        trigger=latest.manifest.trigger,
        created_at=int(latest.manifest.created_at),
        versions=[version_body(adapter, sign) for adapter in ordered],
    )


def lora_model_body(latest: Adapter, *, is_ready: bool) -> LoraModelBody:
    return LoraModelBody(
        id=latest.name,
        owned_by=latest.folder.tenant,
        created=int(latest.manifest.created_at),
        family=latest.manifest.family,
        ready=is_ready,
        title=latest.name,
        root=latest.reference,
        parent=latest.manifest.base_model,
        trigger=latest.manifest.trigger,
    )
