"""Upload ↔ its document in MongoDB."""

from dataclasses import asdict, fields
from typing import Any

from pipelines.request import StoredFile
from serving.mongo import Document
from serving.uploads.upload import Content, Hold, PartPlan, Refusal, Upload

NOWHERE = ""  # the place of what does not stand in that order
PLAIN = tuple(f.name for f in fields(Upload) if f.name not in {"id", "plan", "hold", "content", "refusal"})


def upload_to_document(upload: Upload) -> Document:
    """With the keys by which it is found: each is a string that begins with the tenant, or with what it holds."""
    place = f"{upload.tenant}/{upload.id}"
    return {
        "_id": upload.id,
        **{name: getattr(upload, name) for name in PLAIN},
        "place": place,
        "pending_place": place,
        "holds": NOWHERE,
        "plan": _plain(upload.plan),
        "hold": _plain(upload.hold),
        "content": None if upload.content is None else content_to_document(upload.content),
        "refusal": _plain(upload.refusal),
    }


def content_to_document(content: Content) -> Document:
    return asdict(content)


def upload_from_document(document: Document) -> Upload:
    """Raises KeyError or TypeError on a document that this version does not understand."""
    plan, hold, refusal = document["plan"], document["hold"], document["refusal"]
    return Upload(
        id=document["_id"],
        **{name: document[name] for name in PLAIN} | {"goes_in_parts": bool(document["goes_in_parts"])},
        plan=None if plan is None else PartPlan(**plan),
        hold=None if hold is None else Hold(**hold),
        content=None if document["content"] is None else _content(document["content"]),
        refusal=None if refusal is None else Refusal(**refusal),
    )


def _content(fields: Document) -> Content:
    is_nsfw = fields["is_nsfw"]
    plain = {
        **fields,
        "file": StoredFile(**fields["file"]),
        "is_nsfw": None if is_nsfw is None else bool(is_nsfw),
    }
    return Content(**plain)


def _plain(part: Any) -> Document | None:  # noqa: ANN401  # any of the small dataclasses above
    return None if part is None else asdict(part)
