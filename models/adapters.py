"""Adapters at rest: their names, where they lie in S3, and the manifest beside each. Knows no MongoDB.

A version is immutable. Its file comes first and its manifest last, so a folder with a manifest is complete.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.adapter_keys import Naming, naming_of, read_layers
from models.blobs import BlobStore
from models.errors import BlobError
from models.kohya_export import write_kohya
from models.safetensors_file import read_header
from models.spec import Family

NAME = re.compile(r"[a-z0-9][a-z0-9_\-]{0,63}")
REFERENCE = re.compile(rf"(?P<name>{NAME.pattern})(?:@(?P<version>[1-9][0-9]{{0,8}}))?")
NO_USER = "-"
WEIGHTS, KOHYA_WEIGHTS, MANIFEST = "model.safetensors", "model.kohya.safetensors", "manifest.json"
CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """An upload that a training has learned from."""

    upload_id: str
    sha256: str  # of its bytes, hex
    kind: Literal["video", "image"]
    times_s: tuple[float, ...]  # of the stills, from the first frame of a video; none for a picture


@dataclass(frozen=True, slots=True)
class AdapterLineage:
    """What a version that was trained here was made of."""

    job: str
    dataset: str  # key of the manifest.json of its dataset, which goes when the version goes
    dataset_sha256: str  # of that manifest, which holds the hashes of all else
    recipe: str
    recipe_sha256: str  # of all its values
    base_sha256: str  # of the weights that were trained upon
    sources: tuple[AdapterSource, ...]

    @property
    def dataset_prefix(self) -> str:
        return self.dataset.rpartition("/")[0] + "/"


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """All there is to know of one version; stored beside its file."""

    name: str
    version: int
    base_model: str
    family: Family
    sha256: str  # of model.safetensors, hex
    num_bytes: int
    naming: Naming  # of the keys in the file
    components: tuple[str, ...]  # of the model, such as unet and text_encoder
    num_layers: int
    max_rank: int
    created_at: float  # Unix seconds
    source: str  # where it comes from: "import", or the id of the job that trained it
    trigger: str | None = None  # the word that calls for it in a prompt
    metadata: Mapping[str, str] = field(default_factory=dict)
    lineage: AdapterLineage | None = None  # None: brought here from elsewhere

    @property
    def reference(self) -> str:
        """What a request calls it: `name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """Where one version lies; `job` is the import's id (imp_…) or that of the training job."""

    tenant: str
    job: str
    version: int
    user: str = NO_USER

    @property
    def prefix(self) -> str:
        return f"tenants/{self.tenant}/loras/{self.user}/{self.job}/v{self.version}/"

    @property
    def weights_key(self) -> str:
        return self.prefix + WEIGHTS

    @property
    def kohya_key(self) -> str:
        return self.prefix + KOHYA_WEIGHTS

    @property
    def manifest_key(self) -> str:
        return self.prefix + MANIFEST


def parse_reference(text: str) -> tuple[str, int | None] | None:
    """Name and version of `name` or `name@version`, None for anything else; no version means the latest."""
    match = REFERENCE.fullmatch(text)
    if match is None:
        return None
    return match["name"], None if match["version"] is None else int(match["version"])


def check_file(path: Path) -> Naming:
    """Whose naming a LoRA file uses; AdapterError names the key when it is damaged or no LoRA. Blocks."""
    return naming_of(read_layers(read_header(path).tensors))


def publish(blobs: BlobStore, folder: AdapterFolder, manifest: AdapterManifest, *, staged_key: str) -> None:
    """Moves a checked file to its place: the file first, the manifest last. Blocks."""
    assert folder.version == manifest.version, "a version lies in the folder of that version"
    blobs.copy(staged_key, folder.weights_key)
    blobs.put(folder.manifest_key, _to_json(manifest), "application/json")


def read_manifest(blobs: BlobStore, folder: AdapterFolder) -> AdapterManifest:
    """Raises BlobNotFound where nothing was published, BlobError for one that this version cannot read. Blocks."""
    try:
        fields: dict[str, Any] = json.loads(blobs.get(folder.manifest_key))
        return manifest_from_fields(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise BlobError(f"read {folder.manifest_key}: not a manifest that this version understands") from error


def manifest_to_fields(manifest: AdapterManifest) -> dict[str, Any]:
    fields = asdict(manifest) | {"components": list(manifest.components), "metadata": dict(manifest.metadata)}
    if fields["lineage"] is not None:
        sources = fields["lineage"]["sources"]
        fields["lineage"]["sources"] = [source | {"times_s": list(source["times_s"])} for source in sources]
    return fields


def manifest_from_fields(fields: Mapping[str, Any]) -> AdapterManifest:
    """Inverse of manifest_to_fields; fields of others are left aside. KeyError or TypeError when one is missing."""
    values = {name: fields[name] for name in AdapterManifest.__slots__ if name != "lineage"}
    lineage = _lineage_from_fields(fields.get("lineage"))  # older versions did not write it
    return AdapterManifest(**values | {"components": tuple(values["components"]), "lineage": lineage})


def _lineage_from_fields(fields: Mapping[str, Any] | None) -> AdapterLineage | None:
    if fields is None:
        return None
    values = {name: fields[name] for name in AdapterLineage.__slots__}
    sources = (AdapterSource(**source | {"times_s": tuple(source["times_s"])}) for source in values["sources"])
    return AdapterLineage(**values | {"sources": tuple(sources)})


def remove(blobs: BlobStore, folder: AdapterFolder) -> None:
    """The manifest first, so that what is half gone is not complete. Blocks; may be repeated."""
    blobs.delete(folder.manifest_key)
    blobs.delete_prefix(folder.prefix)


def ensure_kohya(blobs: BlobStore, folder: AdapterFolder, manifest: AdapterManifest, *, scratch: Path) -> str:
    """Key of the same adapter in kohya's naming, made at the first call. AdapterError where there is none. Blocks."""
    if manifest.naming == "kohya":
        return folder.weights_key
    if not blobs.exists(folder.kohya_key):
        source, target = scratch / WEIGHTS, scratch / KOHYA_WEIGHTS
        blobs.get_file(folder.weights_key, source)
        if hash_file(source) != manifest.sha256:
            raise BlobError(f"get {folder.weights_key}: its bytes are not the ones that were published")
        write_kohya(source, target, manifest.family)
        blobs.put_file(folder.kohya_key, target, CONTENT_TYPE)
    return folder.kohya_key


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_json(manifest: AdapterManifest) -> bytes:
    return json.dumps(manifest_to_fields(manifest), indent=2, ensure_ascii=False).encode()
