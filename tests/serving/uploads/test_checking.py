"""A look is taken once, survives its process, and leaves an upload ready, refused, or as it was."""

import asyncio

import pytest

from serving.errors import AppError, Conflict, Unavailable
from serving.uploads import checking
from serving.uploads import store as uploads_store
from serving.uploads.inspecting import UploadRefused
from tests.serving.house import eventually
from tests.serving.uploads.bench import TENANT, Bench
from tests.serving.uploads.conftest import OpenBench


async def test_a_good_file_is_ready_and_temp_is_empty(bench: Bench) -> None:
    upload = await bench.ready(b"one")
    assert upload.content is not None
    assert upload.content.media == {"kind": "image"}
    assert await bench.uploads.read_image(TENANT, upload.id) == b"clean one"
    assert len(await bench.everything_fits()) == 2


async def test_a_bad_file_is_refused_with_the_same_words_every_time(bench: Bench) -> None:
    upload = await bench.send(b"bad one")
    for _ in range(2):
        with pytest.raises(AppError, match="damaged") as refused:
            await bench.complete(upload)
        assert (refused.value.status, refused.value.code) == (422, "damaged")
    assert len(bench.look.orders) == 1
    assert await bench.everything_fits() == []


async def test_of_many_who_complete_it_at_once_one_looks_and_all_hear_the_same(bench: Bench) -> None:
    upload = await bench.send(b"one")
    others = [bench, bench.another()]
    told = await asyncio.gather(*(others[i % 2].complete(upload) for i in range(6)))
    assert len(bench.look.orders) == 1
    assert {one.content.sha256 for one in told if one.content} == {told[0].content and told[0].content.sha256}
    assert all(one.status == "ready" for one in told)


async def test_who_does_not_wait_until_the_end_is_told_to_ask_again_and_the_look_goes_on(bench: Bench) -> None:
    upload = await bench.send(b"one")
    bench.look.gate.clear()
    with pytest.raises(Conflict) as waiting:
        await bench.uploads.complete(TENANT, upload.id, wait_s=0.05)
    assert waiting.value.code == "upload_checking"
    bench.look.gate.set()
    assert (await bench.complete(upload)).status == "ready"
    assert len(bench.look.orders) == 1


async def test_a_caller_who_hangs_up_does_not_stop_the_look(bench: Bench) -> None:
    upload = await bench.send(b"one")
    bench.look.gate.clear()
    caller = asyncio.create_task(bench.complete(upload))
    await eventually(lambda: bench.look.orders)
    caller.cancel()
    bench.look.gate.set()

    async def is_ready() -> bool:
        return (await bench.store.get(TENANT, upload.id)).status == "ready"

    await eventually(is_ready)


async def test_a_file_that_was_not_sent_is_asked_for_and_may_still_come(bench: Bench) -> None:
    upload = await bench.send(b"one")
    bench.blobs.delete(upload.incoming_key)
    with pytest.raises(Conflict) as missing:
        await bench.complete(upload)
    assert missing.value.code == "not_sent"
    bench.blobs.put(upload.incoming_key, b"one", "image/png")
    assert (await bench.complete(upload)).status == "ready"


async def test_another_size_than_announced_is_refused(bench: Bench) -> None:
    upload = await bench.send(b"one")
    bench.blobs.put(upload.incoming_key, b"one more", "image/png")
    with pytest.raises(AppError, match="3 bytes were announced, and 8 were sent") as refused:
        await bench.complete(upload)
    assert refused.value.code == "size_mismatch"
    assert await bench.everything_fits() == []


async def test_where_nobody_looks_the_upload_waits(bench: Bench) -> None:
    upload = await bench.send(b"one")
    bench.look.is_lost = True
    with pytest.raises(Unavailable):
        await bench.complete(upload)
    assert (await bench.store.get(TENANT, upload.id)).status == "pending"
    bench.look.is_lost = False
    assert (await bench.complete(upload)).status == "ready"


async def test_a_video_that_is_sent_anew_during_the_look_is_not_stored_unseen(bench: Bench) -> None:
    """The URL to send it to is still good: what was looked at and what is kept must be the same."""
    upload = await bench.send(b"good", purpose="video")
    inspect = bench.look.inspect

    async def then_replaced(order: checking.InspectOrder, *, timeout_s: float) -> checking.Inspected:
        inspected = await inspect(order, timeout_s=timeout_s)
        bench.blobs.put(upload.incoming_key, b"evil", "video/mp4")
        return inspected

    bench.look.inspect = then_replaced  # type: ignore[method-assign]
    with pytest.raises(Conflict) as changed:
        await bench.complete(upload)
    assert changed.value.code == "changed_meanwhile"
    assert bench.blobs.keys == [upload.incoming_key]
    bench.look.inspect = inspect  # type: ignore[method-assign]
    assert (await bench.complete(upload)).status == "ready"
    assert len(await bench.everything_fits()) == 1


async def test_a_look_that_died_is_taken_up_by_the_next_who_asks(bench: Bench) -> None:
    upload = await bench.send(b"one")
    dead = await bench.store.claim(upload)
    assert dead is not None
    with pytest.raises(Conflict):
        await bench.uploads.complete(TENANT, upload.id, wait_s=0.0)
    assert await bench.store.wake_later(dead, 1.0) is not None  # its claim runs out
    assert (await bench.complete(upload)).status == "ready"


async def test_a_look_renews_its_claim_as_long_as_it_takes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checking, uploads_store):
        monkeypatch.setattr(module, "LEASE_S", 0.3)
    upload = await bench.send(b"one")
    bench.look.gate.clear()
    looking = asyncio.create_task(bench.complete(upload))
    await eventually(lambda: bench.look.orders)
    await asyncio.sleep(0.9)
    assert not uploads_store.is_claimable(await bench.store.get(TENANT, upload.id))
    bench.look.gate.set()
    assert (await looking).status == "ready"


async def test_nothing_is_stored_over_the_tenants_limit(benches: OpenBench) -> None:
    bench = benches(max_stored_bytes=40)
    sent = [await bench.send(b"12345678"), await bench.send(b"abcdefgh"), await bench.send(b"ABCDEFGH")]
    await bench.complete(sent[0])  # 14 bytes cleaned, 5 of thumbnail
    await bench.complete(sent[1])
    with pytest.raises(AppError, match="may take 40 bytes in all; 38 are taken") as full:
        await bench.complete(sent[2])
    assert (full.value.status, full.value.code) == (422, "storage_full")
    assert len(await bench.everything_fits()) == 4
    await bench.uploads.delete(TENANT, sent[0].id)
    await bench.ready(b"ABCDEFGH")
    assert len(await bench.everything_fits()) == 4


async def test_a_refusal_crosses_processes_whole() -> None:
    refused = UploadRefused("damaged", "It is.")
    kind, arguments = refused.__reduce__()
    again = kind(*arguments)
    assert (again.code, again.message, again.status) == ("damaged", "It is.", 422)
