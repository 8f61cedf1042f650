"""Adapter: one published version, and how it is written down in MongoDB. Knows no storage."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal

from models.adapters import NAME, NO_USER, AdapterFolder, AdapterManifest, manifest_from_fields, manifest_to_fields
from pipelines.request import StoredFile
from serving.errors import BadInput

# importing → ready → deleting; a draft that is given up goes to deleting at once. Only what is ready can be seen.
State = Literal["importing", "ready", "deleting"]
IMPORT = "imp_"  # what the ids of imports begin with


@dataclass(frozen=True, slots=True)
class Adapter:
    """A version that can be used; immutable."""

    manifest: AdapterManifest
    folder: AdapterFolder

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def reference(self) -> str:
        return self.manifest.reference

    @property
    def file(self) -> StoredFile:
        return StoredFile(self.folder.weights_key, self.manifest.sha256)


@dataclass(frozen=True, slots=True)
class Draft:
    """An import or a publication under way: the right to publish something under this name. Its version comes last."""

    id: str  # of the document
    tenant: str
    name: str
    job: str  # imp_…, or the id of the job that trained it
    created_at: float
    user: str = NO_USER  # whose folder it will lie in
    version: int = 0  # 0: none yet
    fence: int = 0  # of the job's attempt at work, which grows; whoever was overtaken can write nothing more

    @property
    def is_import(self) -> bool:
        """Then nobody else knows of it, and it is cleared away by age; what was trained is its job's to end."""
        return self.job.startswith(IMPORT)

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def folder(self) -> AdapterFolder:
        return AdapterFolder(tenant=self.tenant, job=self.job, version=self.version, user=self.user)

    @property
    def staged_prefix(self) -> str:
        return f"temp/{self.job}/"

    @property
    def staged_key(self) -> str:
        """Where the file waits for the engine's verdict."""
        return f"{self.staged_prefix}model.safetensors"


def check_name(name: str, model_ids: Container[str]) -> None:
    """Refuses what no adapter can be called."""
    if not NAME.fullmatch(name):
        raise BadInput(f"name {name[:80]!r} must be 1 to 64 of a–z, 0–9, - and _, the first no sign.", param="name")
    if name in model_ids:
        # Both stand in one list of models.
        raise BadInput(f"name {name!r} is the id of a model.", param="name")


def draft_to_document(draft: Draft) -> dict[str, Any]:
    state: State = "importing"
    return {
        "_id": draft.id,
        "tenant": draft.tenant,
        "name": draft.name,
        "job": draft.job,
        "user": draft.user,
        "created_at": draft.created_at,
        "state": state,
        "version": draft.version,
        "fence": draft.fence,
        "uploads": [],  # that it was made from; each of them speaks of it
        "manifest": None,
    }


def draft_from_document(document: dict[str, Any]) -> Draft:
    return Draft(
        id=document["_id"],
        tenant=document["tenant"],
        name=document["name"],
        job=document["job"],
        created_at=document["created_at"],
        user=document.get("user", NO_USER),
        version=int(document["version"]),
        fence=int(document.get("fence", 0)),
    )


def publication(manifest: AdapterManifest) -> dict[str, Any]:
    """The changes that turn a draft into a version."""
    state: State = "ready"
    return {"state": state, "created_at": manifest.created_at, "manifest": manifest_to_fields(manifest)}


def adapter_from_document(document: dict[str, Any]) -> Adapter:
    """Raises KeyError or TypeError on a document this version does not understand."""
    return Adapter(manifest_from_fields(document["manifest"]), draft_from_document(document).folder)
