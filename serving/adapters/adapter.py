"""Adapter: one published version, and how it is written down in MongoDB. Knows no storage."""

from dataclasses import dataclass
from typing import Any, Literal

from models.adapters import AdapterFolder, AdapterManifest, manifest_from_fields, manifest_to_fields
from pipelines.request import StoredFile

# importing → ready → deleting; a draft that is given up goes to deleting at once. Only what is ready can be seen.
State = Literal["importing", "ready", "deleting"]


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
    """An import under way: the right to publish these bytes under this name. Its version comes last."""

    id: str  # of the document
    tenant: str
    name: str
    job: str
    created_at: float

    @property
    def staged_prefix(self) -> str:
        return f"temp/{self.job}/"

    @property
    def staged_key(self) -> str:
        """Where the file waits for the engine's verdict."""
        return f"{self.staged_prefix}model.safetensors"


def draft_to_document(draft: Draft) -> dict[str, Any]:
    state: State = "importing"
    return {
        "_id": draft.id,
        "tenant": draft.tenant,
        "name": draft.name,
        "job": draft.job,
        "created_at": draft.created_at,
        "state": state,
        "version": 0,
        "manifest": None,
    }


def draft_from_document(document: dict[str, Any]) -> Draft:
    return Draft(
        id=document["_id"],
        tenant=document["tenant"],
        name=document["name"],
        job=document["job"],
        created_at=document["created_at"],
    )


def publication(manifest: AdapterManifest) -> dict[str, Any]:
    """The changes that turn a draft into a version."""
    state: State = "ready"
    return {"state": state, "created_at": manifest.created_at, "manifest": manifest_to_fields(manifest)}


def adapter_from_document(document: dict[str, Any]) -> Adapter:
    """Raises KeyError or TypeError on a document this version does not understand."""
    return Adapter(manifest_from_fields(document["manifest"]), folder_of(document))


def folder_of(document: dict[str, Any]) -> AdapterFolder:
    return AdapterFolder(tenant=document["tenant"], job=document["job"], version=int(document["version"]))
