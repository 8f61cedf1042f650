"""What nobody completes is forgotten, what was interrupted is taken up, and late bytes do not stay in temp/."""

import asyncio
import time

import pytest

from serving.errors import Conflict, NotFound
from serving.jobs.caretaker import MAX_JOBS
from serving.uploads.ending import KEEP_REFUSED_S
from serving.uploads.store import UploadStore
from serving.uploads.upload import Content, Hold, Upload
from tests.serving.caretakers import a_caretaker
from tests.serving.uploads.bench import TENANT, Bench
from tests.serving.uploads.conftest import OpenBench
from tests.serving.uploads.test_objects import make_due


async def test_what_is_not_completed_in_time_is_forgotten_with_its_bytes(benches: OpenBench) -> None:
    bench = benches(keep_pending_s=1e-6)
    upload = await bench.send(b"one")
    assert await bench.upkeep.delete_old(limit=10) == 1
    assert await bench.everything_fits() == []
    assert await bench.store.find(TENANT, upload.id) is None
    assert await bench.store.announced(TENANT, limit=10) == []


async def test_parts_of_what_is_forgotten_go_too(benches: OpenBench) -> None:
    bench = benches(keep_pending_s=1e-6)
    await bench.send(b"one", goes_in_parts=True)
    assert len(bench.blobs.parts.keys) == 1
    await bench.upkeep.delete_old(limit=10)
    assert bench.blobs.parts.keys == []
    assert await bench.everything_fits() == []


async def test_what_is_young_or_ready_is_left_alone(bench: Bench) -> None:
    pending, ready = await bench.send(b"one"), await bench.ready(b"two")
    assert await bench.upkeep.delete_old(limit=10) == 0
    assert (await bench.store.get(TENANT, pending.id)).status == "pending"
    assert (await bench.store.get(TENANT, ready.id)).wake_at == 0


async def test_a_look_that_died_is_put_back_and_what_it_began_to_keep_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, is_frozen, thawed = await bench.send(b"one"), asyncio.Event(), asyncio.Event()
    finish = bench.store.finish

    async def freeze(claimed: Upload, content: Content, hold: Hold) -> Upload:
        is_frozen.set()
        await thawed.wait()
        return await finish(claimed, content, hold)

    monkeypatch.setattr(bench.store, "finish", freeze)
    looking = asyncio.create_task(bench.complete(upload))
    await is_frozen.wait()
    assert len(bench.blobs.keys) == 3
    await make_due(bench, upload)
    await bench.another().upkeep.delete_old(limit=10)
    assert bench.blobs.keys == [upload.incoming_key]
    assert (await bench.store.get(TENANT, upload.id)).status == "pending"
    thawed.set()
    with pytest.raises(Conflict):
        await looking
    assert bench.blobs.keys == [upload.incoming_key]
    monkeypatch.undo()
    assert (await bench.complete(upload)).status == "ready"
    assert len(await bench.everything_fits()) == 2


async def test_what_is_sent_once_more_after_the_end_goes_when_the_url_has_ended(bench: Bench) -> None:
    upload = await bench.send(b"one")
    upload, _ = await bench.uploads.receiving.ticket(upload)
    ready = await bench.complete(upload)
    bench.blobs.put(upload.incoming_key, b"one", "image/png")
    assert ready.urls_until > time.time()
    assert (await bench.store.get(TENANT, upload.id)).wake_at == ready.urls_until
    await end_urls(bench, upload.id)
    await bench.upkeep.delete_old(limit=10)
    assert len(await bench.everything_fits()) == 2
    assert (await bench.store.get(TENANT, upload.id)).wake_at == 0


async def test_what_is_sent_after_a_deletion_goes_when_the_url_has_ended(bench: Bench) -> None:
    upload = await bench.send(b"one")
    upload, _ = await bench.uploads.receiving.ticket(upload)
    await bench.uploads.delete(TENANT, upload.id)
    bench.blobs.put(upload.incoming_key, b"one", "image/png")
    with pytest.raises(NotFound):
        await bench.store.get(TENANT, upload.id)
    await end_urls(bench, upload.id)
    await bench.upkeep.delete_old(limit=10)
    assert await bench.everything_fits() == []
    assert await bench.store.find(TENANT, upload.id) is None


async def test_a_refusal_is_remembered_for_a_while_and_then_forgotten(bench: Bench) -> None:
    upload = await bench.send(b"bad one")
    with pytest.raises(Exception, match="damaged"):
        await bench.complete(upload)
    failed = await bench.store.get(TENANT, upload.id)
    assert failed.wake_at == pytest.approx(failed.expires_at + KEEP_REFUSED_S)
    await bench.mongo.of_tenant("uploads", TENANT).update_one(
        {"_id": upload.id}, {"$set": {"wake_at": 1.0, "expires_at": time.time() - KEEP_REFUSED_S - 1}}
    )
    await bench.upkeep.delete_old(limit=10)
    assert await bench.store.find(TENANT, upload.id) is None


async def test_one_that_cannot_be_done_does_not_stand_in_the_way_of_others(
    benches: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benches(keep_pending_s=1e-6)
    stuck, other = await bench.send(b"one"), await bench.send(b"two")
    mark = UploadStore.mark_deleting

    async def fail_once(self: UploadStore, upload: object) -> None:
        monkeypatch.setattr(UploadStore, "mark_deleting", mark)
        raise RuntimeError("a bug that one upload brings out")

    monkeypatch.setattr(UploadStore, "mark_deleting", fail_once)
    with pytest.raises(RuntimeError):
        await bench.upkeep.delete_old(limit=1)
    assert await bench.upkeep.delete_old(limit=1) == 1
    assert await bench.store.find(TENANT, other.id) is None
    assert await bench.store.find(TENANT, stuck.id) is not None


async def test_the_caretaker_does_it_in_every_pass(benches: OpenBench) -> None:
    bench = benches(keep_pending_s=1e-6)
    for _ in range(MAX_JOBS + 1):
        await bench.send(b"one")
    caretaker = a_caretaker(bench.mongo, bench.blobs, bench.settings, prompt=[bench.upkeep])
    assert await caretaker.tidy(), "there is one more"
    assert not await caretaker.tidy()
    assert bench.blobs.keys == []


async def end_urls(bench: Bench, upload_id: str) -> None:
    """As if the URLs that were given out had ended."""
    changed = {"$set": {"urls_until": 1.0, "wake_at": 1.0}}
    assert await bench.mongo.of_tenant("uploads", TENANT).update_one({"_id": upload_id}, changed)
