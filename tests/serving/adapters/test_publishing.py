"""What was trained becomes one version of its job, killed between any two steps; and it goes without a trace."""

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from models.adapters import AdapterManifest, manifest_from_fields, manifest_to_fields, read_manifest
from pipelines.request import AdapterReport, StoredFile, TrainedAdapter
from serving.adapters.adapter import Adapter
from serving.adapters.publishing import AdapterPublisher, PublicationRefused
from serving.adapters.store import AdapterStore
from serving.backends.base import Order
from serving.errors import NotFound, Unavailable
from serving.jobs.job import Job, input_prefix
from serving.tenancy.policies import ModerationPolicy
from serving.uploads.uses import UploadUses
from tests.fakes import LocalChecker
from tests.serving.adapters.test_importing import Killed, dies_at, documents, import_one, make_old
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, served_catalog
from tests.serving.training_jobs import a_training, an_announced_upload, an_upload
from training.recipe import Recipe


@pytest.fixture
async def quiet(houses: OpenHouse) -> House:
    """A house whose Router drives only what it is told to."""
    return await houses(sweeps=False)


class Desk:
    """One Router's way to publish, in parts that a test can break."""

    def __init__(
        self, house: House, *, served: frozenset[str] = frozenset({"emoji-3d"}), insist_s: float = 5.0
    ) -> None:
        self.house = house
        self.uses = UploadUses.over(house.mongo, house.store)
        self.store = AdapterStore(house.mongo, house.blobs, self.uses)
        self.checker = LocalChecker(house.backends)
        self.publisher = AdapterPublisher(
            self.store, house.blobs, self.checker, served_catalog(), served=served, insist_s=insist_s
        )

    async def made(self, job: Job) -> TrainedAdapter:
        """What the Trainer answers for this job."""
        order = Order(job.id, job.tenant, job.request, job.attempt_prefix, job.created_at)
        async for message in self.house.trainer.train(order, ModerationPolicy("off", 1.0, 1.0)):
            if isinstance(message, TrainedAdapter):
                return message
        raise AssertionError("nothing was made")

    async def publish(self, job: Job) -> Adapter:
        return await self.publisher.publish(job, await self.made(job))


def version_keys(adapter: Adapter) -> list[str]:
    return sorted([adapter.folder.weights_key, adapter.folder.manifest_key])


def lora_keys(house: House) -> list[str]:
    return [key for key in house.blobs.keys if "/loras/" in key]


async def notes(house: House) -> list[str]:
    """What uploads say was made from them."""
    found = await house.mongo.of_tenant("upload_uses", "alice").find({}, sort=[("_id", 1)], limit=100)
    return [document["used_by"] for document in found]


async def test_a_version_lies_in_its_users_folder_and_tells_all_that_it_was_made_of(quiet: House) -> None:
    upload_id, desk = await an_announced_upload(quiet), Desk(quiet)
    job = a_training(uploads=(upload_id,), user="u1")
    made = await desk.made(job)
    adapter = await desk.publisher.publish(job, made)
    assert adapter.folder.prefix == f"tenants/alice/loras/u1/{job.id}/v1/"
    assert (adapter.reference, adapter.manifest.source, adapter.manifest.trigger) == ("signer@1", job.id, "sks person")
    assert (adapter.manifest.naming, adapter.manifest.max_rank) == ("diffusers", 8)
    lineage = adapter.manifest.lineage
    assert lineage is not None
    assert (lineage.job, lineage.dataset, lineage.dataset_sha256) == (job.id, made.manifest.key, made.manifest.sha256)
    assert (lineage.recipe, lineage.base_sha256) == ("subject", made.weights_sha256)
    assert lineage.recipe_sha256 == Recipe.from_json(job.training.recipe_json).sha256
    assert [(s.upload_id, s.kind, s.times_s) for s in lineage.sources] == [(upload_id, "video", (0.5, 1.25, 2.0))]
    assert read_manifest(quiet.blobs, adapter.folder) == adapter.manifest
    assert (await quiet.services.adapters.resolve("alice", "signer")).manifest == adapter.manifest
    assert quiet.blobs.get(adapter.file.key) == quiet.blobs.get(made.file.key)
    assert await notes(quiet) == ["signer@1"]


async def test_the_engine_sees_the_very_bytes_that_are_published(quiet: House) -> None:
    job, desk = a_training(), Desk(quiet)
    adapter = await desk.publish(job)
    assert quiet.backend.checked == [StoredFile(f"{input_prefix(job.id)}adapter.safetensors", adapter.manifest.sha256)]


async def test_a_job_publishes_once_and_another_one_the_next_version(quiet: House) -> None:
    job, desk = a_training(), Desk(quiet)
    first = await desk.publish(job)
    assert await desk.publish(job) == first
    assert (await desk.publish(a_training())).reference == "signer@2", "the same bytes, and a job of their own"
    assert len(await documents(quiet)) == 2


STEPS = ["insert", "get_file", "check_adapter", "number", "note_adapter", "copy", "put", "finish"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
async def test_a_publication_that_dies_at_any_step_is_taken_up_by_the_next_attempt(
    quiet: House, step: str, after: bool
) -> None:
    upload_id, desk = await an_announced_upload(quiet), Desk(quiet)
    job = a_training(uploads=(upload_id,))
    made = await desk.made(job)
    owner = {
        "insert": quiet.mongo.of_tenant("adapters", "alice").__class__,
        "check_adapter": desk.checker,
        "number": desk.store,
        "finish": desk.store,
        "note_adapter": desk.uses,
    }.get(step, quiet.blobs)
    with pytest.MonkeyPatch.context() as crash:
        dies_at(crash, owner, step, after=after)
        with pytest.raises(Killed):
            await desk.publisher.publish(job, made)
    is_published = step == "finish" and after
    assert [a.reference for a in await desk.store.versions("alice")] == (["signer@1"] if is_published else [])
    with pytest.MonkeyPatch.context() as later:
        make_old(later)
        await import_one(quiet, name="other")  # which clears away what is old, but not what a job may go on from
    adapter = await Desk(quiet).publish(job)
    assert adapter.reference == "signer@1"
    assert [key for key in lora_keys(quiet) if "/imp_" not in key] == version_keys(adapter)
    assert [document["state"] for document in await documents(quiet)] == ["ready", "ready"]
    assert await notes(quiet) == ["signer@1"]


@pytest.mark.parametrize("step", ["check_adapter", "number", "copy", "put", "finish"])
async def test_what_a_job_began_to_publish_goes_when_nothing_more_comes_of_it(quiet: House, step: str) -> None:
    upload_id, desk = await an_announced_upload(quiet), Desk(quiet)
    job = a_training(uploads=(upload_id,))
    made = await desk.made(job)
    owner = {"check_adapter": desk.checker, "number": desk.store, "finish": desk.store}.get(step, quiet.blobs)
    with pytest.MonkeyPatch.context() as crash:
        dies_at(crash, owner, step, after=step in {"number", "copy", "put"})
        with pytest.raises(Killed):
            await desk.publisher.publish(job, made)
    job_of = {"name": "signer", "base_model": "emoji-3d", "job": job.id}
    assert not await desk.store.end_trained("alice", **job_of)
    assert (await documents(quiet), lora_keys(quiet), await notes(quiet)) == ([], [], [])
    assert quiet.blobs.exists(made.file.key), "what the job stored itself is the caretaker's to remove"
    again = await desk.publisher.publish(job, made)
    assert await desk.store.end_trained("alice", **job_of)
    assert (await desk.store.resolve("alice", "signer")) == again


async def test_a_zombie_publishes_nothing_after_its_job_was_cleared_away(quiet: House) -> None:
    desk, job = Desk(quiet), a_training()

    class Slow:
        async def check_adapter(self, *args: Any, **kwargs: Any) -> AdapterReport:
            assert not await desk.store.end_trained("alice", name="signer", base_model="emoji-3d", job=job.id)
            return await desk.checker.check_adapter(*args, **kwargs)

    slow = AdapterPublisher(
        desk.store, quiet.blobs, Slow(), served_catalog(), served=frozenset({"emoji-3d"}), insist_s=1.0
    )
    with pytest.raises(Unavailable):
        await slow.publish(job, await desk.made(job))
    assert (await documents(quiet), lora_keys(quiet)) == ([], [])


async def test_it_waits_for_an_engine_but_not_for_ever(quiet: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.adapters.publishing.PAUSE_S", 0.01)
    desk = Desk(quiet)
    desk.checker.num_away = 3
    assert (await desk.publish(a_training())).reference == "signer@1"
    hasty = Desk(quiet, insist_s=0.0)
    hasty.checker.num_away = 10_000
    with pytest.raises(Unavailable):
        await hasty.publish(a_training())


async def test_what_the_engine_or_its_own_header_refuses_is_not_published(quiet: House) -> None:
    desk, job = Desk(quiet), a_training()
    quiet.backend.adapter_refusal = "The key 'unet.x' matches nothing."
    with pytest.raises(PublicationRefused, match=r"unet\.x"):
        await desk.publish(job)
    quiet.backend.adapter_refusal = None
    made = await desk.made(job)
    quiet.blobs.put(made.file.key, b"other bytes", "application/octet-stream")
    with pytest.raises(Unavailable):
        await desk.publisher.publish(job, made)
    assert await desk.store.versions("alice") == []


async def test_what_no_engine_here_can_try_is_told_by_its_header(quiet: House) -> None:
    adapter = await Desk(quiet, served=frozenset()).publish(a_training())
    assert quiet.backend.checked == []
    manifest = adapter.manifest
    assert (manifest.components, manifest.num_layers, manifest.max_rank) == (("text_encoder", "unet"), 3, 4)


DELETION_STEPS = ["delete", "delete_prefix", "drop_adapter", "delete_one"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", DELETION_STEPS)
async def test_deletion_takes_dataset_and_lineage_along_and_is_finished_by_whoever_comes_next(
    quiet: House, step: str, after: bool
) -> None:
    upload_id, desk = await an_announced_upload(quiet), Desk(quiet)
    job = a_training(uploads=(upload_id,))
    made = await desk.made(job)
    await desk.publisher.publish(job, made)
    quiet.blobs.delete_prefix(input_prefix(job.id))
    collection = quiet.mongo.of_tenant("adapters", "alice").__class__
    owner = {"drop_adapter": desk.uses, "delete_one": collection}.get(step, quiet.blobs)
    with pytest.MonkeyPatch.context() as crash:
        dies_at(crash, owner, step, after=after)
        with suppress(Killed):
            await desk.store.delete("alice", "signer", 1)
    with pytest.raises(NotFound):
        await desk.store.resolve("alice", "signer")
    await desk.store.sweep("alice")
    assert [key for key in quiet.blobs.keys if "/uploads/" not in key] == []
    assert (await documents(quiet), await notes(quiet)) == ([], [])


async def test_a_deleted_upload_is_no_longer_spoken_of_but_the_version_still_tells(quiet: House) -> None:
    upload_id, desk = await an_upload(quiet), Desk(quiet)
    job = a_training(uploads=(upload_id,))
    adapter = await desk.publish(job)
    assert [use.id for use in await quiet.services.uploads.delete("alice", upload_id)] == ["signer@1"]
    assert adapter.manifest.lineage is not None
    again = await Desk(quiet).publish(a_training(uploads=(upload_id,)))
    assert again.reference == "signer@2", "learned from a dataset that has outlived the upload"
    assert await notes(quiet) == []
    await desk.store.delete("alice", "signer")
    assert await documents(quiet) == []


async def test_an_attempt_that_was_overtaken_publishes_nothing_any_more(quiet: House) -> None:
    first, second = Desk(quiet), Desk(quiet)
    job = a_training()
    made, finish = await first.made(job), first.store.finish
    place = {"user": "-", "name": "signer", "base_model": "emoji-3d", "job": job.id}

    async def too_late(*args: Any) -> Adapter:
        await second.store.begin_trained("alice", **place, fence=2)
        return await finish(*args)

    with pytest.MonkeyPatch.context() as slow:
        slow.setattr(first.store, "finish", too_late)
        with pytest.raises(Unavailable):
            await first.publisher.publish(replace(job, fence=1), made)
    with pytest.raises(Unavailable):
        await first.store.begin_trained("alice", **place, fence=1)
    assert await first.store.versions("alice") == []
    adapter = await second.publisher.publish(replace(job, fence=2), made)
    assert adapter.reference == "signer@1"
    assert lora_keys(quiet) == version_keys(adapter)


def test_a_manifest_of_before_there_was_a_lineage_is_read() -> None:
    fields = {
        "name": "style",
        "version": 1,
        "base_model": "emoji-3d",
        "family": "sd",
        "sha256": "a" * 64,
        "num_bytes": 5,
        "naming": "diffusers",
        "components": ["unet"],
        "num_layers": 1,
        "max_rank": 4,
        "created_at": 1.5,
        "source": "import",
        "trigger": None,
        "metadata": {},
    }
    manifest = manifest_from_fields(fields)
    assert isinstance(manifest, AdapterManifest)
    assert manifest.lineage is None
    assert manifest_from_fields(json.loads(json.dumps(manifest_to_fields(manifest)))) == manifest
