"""The same bytes are stored once and stay as long as somebody holds them, whoever comes and goes at the same time."""

import asyncio
import random

import pytest

from models.blobs import BlobInfo
from models.errors import BlobError
from serving.errors import AppError, Conflict, Unavailable
from serving.uploads.store import UploadStore
from serving.uploads.upload import Upload
from tests.serving.uploads.bench import TENANT, Bench


async def test_the_same_bytes_twice_are_one_object(bench: Bench) -> None:
    first, second = await bench.ready(b"one"), await bench.ready(b"one")
    assert first.content == second.content
    assert len(await bench.everything_fits()) == 2  # the picture and its thumbnail


async def test_other_bytes_or_another_purpose_are_another_object(bench: Bench) -> None:
    await bench.ready(b"one")
    await bench.ready(b"two")
    await bench.ready(b"one", purpose="video")
    assert len(await bench.everything_fits()) == 5


async def test_deleting_one_keeps_the_object_for_the_other_and_deleting_the_last_removes_it(bench: Bench) -> None:
    first, second = await bench.ready(b"one"), await bench.ready(b"one")
    await bench.uploads.delete(TENANT, first.id)
    assert len(await bench.everything_fits()) == 2
    assert await bench.uploads.read_image(TENANT, second.id) == b"clean one"
    await bench.uploads.delete(TENANT, second.id)
    assert await bench.everything_fits() == []


async def test_many_that_complete_the_same_bytes_at_once_share_one_object(bench: Bench) -> None:
    others = [bench, bench.another(), bench.another()]
    sent = [await bench.send(b"one") for _ in range(12)]
    ready = await asyncio.gather(*(others[i % 3].complete(upload) for i, upload in enumerate(sent)))
    assert len({upload.content.file.key for upload in ready if upload.content}) == 1
    assert len(await bench.everything_fits()) == 2


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_comes_and_goes_at_once_no_upload_loses_its_object_and_none_is_left_over(
    bench: Bench, seed: int
) -> None:
    """Three processes upload and delete two contents, in an order that chance decides."""
    chance = random.Random(seed)
    processes = [bench, bench.another(), bench.another()]

    async def live(process: Bench) -> None:
        data = chance.choice((b"one", b"two"))
        upload = await process.ready(data)
        await asyncio.sleep(chance.uniform(0, 0.05))
        if chance.random() < 0.7:
            await chance.choice(processes).uploads.delete(TENANT, upload.id)
        else:
            assert await process.uploads.read_image(TENANT, upload.id) == b"clean " + data

    for _ in range(4):
        await asyncio.gather(*(live(chance.choice(processes)) for _ in range(6)))
        await bench.everything_fits()


async def test_a_deletion_between_the_look_and_the_end_of_another_upload_takes_nothing_from_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who deletes has seen that nobody holds the object when the other begins to."""
    first = await bench.ready(b"one")
    second = await bench.send(b"one")
    is_held = UploadStore.is_held

    async def slow(self: UploadStore, tenant: str, object_id: str) -> bool:
        held = await is_held(self, tenant, object_id)
        monkeypatch.undo()
        await bench.complete(second)
        return held

    monkeypatch.setattr(UploadStore, "is_held", slow)
    await bench.uploads.delete(TENANT, first.id)
    assert (await bench.store.get(TENANT, second.id)).status == "ready"
    assert len(await bench.everything_fits()) == 2
    assert await bench.uploads.read_image(TENANT, second.id) == b"clean one"


async def test_an_upload_that_finds_a_dying_object_buries_it_and_stores_its_own(bench: Bench) -> None:
    first = await bench.ready(b"one")
    bench.blobs.is_down = True  # the deletion gets no further than to mark the object
    await bench.uploads.delete(TENANT, first.id)
    bench.blobs.is_down = False
    second = await bench.ready(b"one")
    assert second.content is not None and first.content is not None
    assert second.content.file.key != first.content.file.key, "what still deletes the old one must not meet the new"
    await make_due(bench, first)
    assert await bench.upkeep.delete_old(limit=10) == 1
    assert len(await bench.everything_fits()) == 2


async def test_a_deletion_that_the_store_interrupted_is_finished_by_the_upkeep(bench: Bench) -> None:
    upload = await bench.ready(b"one")
    bench.blobs.is_down = True
    assert await bench.uploads.delete(TENANT, upload.id) == []
    assert len(bench.blobs.keys) == 2
    with pytest.raises(AppError, match="No upload"):
        await bench.store.get(TENANT, upload.id)
    bench.blobs.is_down = False
    await make_due(bench, upload)
    await bench.upkeep.delete_old(limit=10)
    assert await bench.everything_fits() == []
    assert await bench.store.find(TENANT, upload.id) is None


async def test_what_could_not_be_stored_leaves_nothing_and_may_be_completed_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await bench.send(b"one")

    def refuse(key: str, data: bytes, content_type: str) -> BlobInfo:
        monkeypatch.undo()
        raise BlobError("the store has no room")

    monkeypatch.setattr(bench.blobs, "put", refuse)
    with pytest.raises(Unavailable):
        await bench.complete(upload)
    assert (await bench.store.get(TENANT, upload.id)).status == "pending"
    assert bench.blobs.keys == [upload.incoming_key]
    await bench.complete(upload)
    assert len(await bench.everything_fits()) == 2


async def test_a_maker_that_was_taken_for_dead_takes_its_own_away_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim runs out while it writes; another takes the upload up and comes to an end first."""
    upload = await bench.send(b"one")
    loop, put = asyncio.get_running_loop(), bench.blobs.put

    def slow(key: str, data: bytes, content_type: str) -> BlobInfo:
        monkeypatch.undo()
        asyncio.run_coroutine_threadsafe(overtake(), loop).result(10)
        return put(key, data, content_type)

    async def overtake() -> None:
        await make_due(bench, upload)
        await bench.another().complete(upload)

    monkeypatch.setattr(bench.blobs, "put", slow)
    with pytest.raises(Conflict):
        await bench.complete(upload)
    assert (await bench.store.get(TENANT, upload.id)).status == "ready"
    assert len(await bench.everything_fits()) == 2


async def make_due(bench: Bench, upload: Upload) -> None:
    """As if the time had come that it asked to be looked at."""
    found = await bench.store.find(TENANT, upload.id)
    assert found is not None
    assert await bench.store.wake_later(found, 1.0) is not None
