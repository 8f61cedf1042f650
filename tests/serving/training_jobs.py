"""Trainings for tests of what becomes of them: requests, jobs, and pictures to learn from."""

from collections.abc import Sequence
from typing import Any

from models.catalog import load_catalog
from pipelines.request import StoredFile, TrainingRequest, TrainingSource
from serving.jobs.job import Job, new_job
from serving.uploads.upload import Offer, new_upload, new_upload_id
from tests.fake_pictures import picture
from tests.serving.house import MODELS, House, a_request
from training.recipe import load_recipe


def a_source(upload_id: str = "upl_1") -> TrainingSource:
    return TrainingSource(upload_id, "video", StoredFile(f"tenants/alice/uploads/-/{upload_id}/file", "a" * 64), 2.0)


def a_training_request(uploads: Sequence[str] = ("upl_1",), **changes: Any) -> TrainingRequest:
    recipe = load_recipe("subject", load_catalog()[MODELS[0]], {"loop": {"steps": 50}})
    values: dict[str, Any] = {
        "name": "signer",
        "base_model": MODELS[0],
        "trigger": "sks person",
        "caption": "template",
        "recipe": "subject",
        "recipe_json": recipe.to_json(),
        "steps": 50,
        "rank": 16,
        "resolution_px": 128,
        "seed": 7,
        "sources": tuple(a_source(upload_id) for upload_id in uploads),
    }
    return TrainingRequest(**(values | changes))


def a_training(*, tenant: str = "alice", user: str | None = None, moderation: Any = "auto", **request: Any) -> Job:
    return new_job(
        a_training_request(**request),
        tenant=tenant,
        kind="lora",
        priority="normal",
        metadata={},
        user=user,
        request_id="req_test",
        expires_in_s=3_600.0,
        moderation=moderation,
    )


async def trained(house: House, **request: Any) -> Job:
    """A training that has been driven to its end."""
    job = a_training(**request)
    await house.store.insert(job)
    ended = await house.drive(job)
    assert ended is not None
    return ended


async def an_upload(house: House, *, number: int = 0) -> str:
    """Id of a picture that is ready."""
    file = {"file": ("a.png", picture(a_request(seed=number, width_px=256, height_px=256), 0).data, "image/png")}
    answer = await house.alice.post("/v1/uploads/direct", files=file, data={"purpose": "image"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def an_announced_upload(house: House) -> str:
    """Id of an upload that is there, with nothing in it yet: enough to be spoken of, and quickly made."""
    offer = Offer("a.png", "image/png", 1, "image")
    upload = new_upload("alice", offer, keep_s=3_600.0, upload_id=new_upload_id())
    await house.services.uploads.store.insert(upload)
    return upload.id
