"""One extraction, whole: true videos in true child processes, what is stored, and what may go wrong."""

import asyncio
import hashlib
import io
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from PIL import Image

from models.blobs import BlobInfo
from models.errors import BlobError
from pipelines.request import FramesResult, Progress
from serving.backends.frames import FramesError, FramesFailure
from serving.errors import Unavailable
from serving.frames import extraction as extraction_module
from serving.workspace import Workspace
from tests.clips import ODDITIES
from tests.frames import SIZE, video
from tests.serving.frames.conftest import KEY, PREFIX, Bench, children
from tests.serving.house import eventually


async def test_stills_and_sheet_are_stored_under_the_keys_of_the_attempt(bench: Bench) -> None:
    result = await bench.extract(bench.order(), "off")
    assert [frame.key for frame in result.frames] == [f"{PREFIX}{n:03}.jpg" for n in range(len(result.frames))]
    assert bench.stored == sorted(result.keys) == sorted([*(f.key for f in result.frames), f"{PREFIX}sheet.jpg"])
    assert {frame.scene for frame in result.frames} == {0, 1, 2}
    for frame in result.frames:
        data = bench.blobs.get(frame.key)
        assert (frame.num_bytes, frame.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert bench.pixels(frame.key).shape[1::-1] == (frame.width_px, frame.height_px) == SIZE
        assert bench.blobs.head(frame.key).content_type == frame.content_type == "image/jpeg"
    times_s = [frame.time_s for frame in result.frames]
    assert times_s == sorted(times_s)
    assert result.rejected
    assert 0 < result.device_s <= result.engine_s
    bench.assert_clean()


async def test_progress_only_ever_grows(bench: Bench) -> None:
    await bench.extract(bench.order())
    percents = [progress.percent for progress in bench.progress]
    assert percents == sorted(set(percents))
    assert len([percent for percent in percents if percent < 70]) > 10
    assert percents[-1] == 95
    assert bench.progress[-1].device_s > 0


@pytest.mark.parametrize(("wanted", "ending", "format"), [("png", "png", "PNG"), ("webp", "webp", "WEBP")])
async def test_stills_have_the_format_that_was_asked_for(bench: Bench, wanted: str, ending: str, format: str) -> None:
    result = await bench.extract(bench.order(output_format=wanted, max_frames=2), "off")
    for frame in result.frames:
        assert frame.key.endswith(f".{ending}")
        with Image.open(io.BytesIO(bench.blobs.get(frame.key))) as picture:
            assert picture.format == format


async def test_where_one_still_cannot_be_stored_none_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put = bench.blobs.put

    def put_but_one(key: str, *args: Any, **options: Any) -> BlobInfo:
        if key.endswith("001.jpg"):
            raise BlobError("the store is full")
        return put(key, *args, **options)

    order = bench.order()
    monkeypatch.setattr(bench.blobs, "put", put_but_one)
    with pytest.raises(Unavailable) as caught:
        await bench.extract(order, "off")
    assert caught.value.code == "storage_unavailable"
    assert bench.stored == []
    bench.assert_clean()


async def test_a_video_that_is_gone_or_another_is_refused_for_good(bench: Bench) -> None:
    order = bench.order()
    bench.blobs.put(KEY, b"something else", "video/mp4")
    with pytest.raises(FramesError, match="not the video") as caught:
        await bench.extract(order)
    assert caught.value.code == "upload_changed"
    bench.blobs.delete(KEY)
    with pytest.raises(FramesError, match="deleted") as caught:
        await bench.extract(order)
    assert caught.value.code == "upload_gone"
    bench.assert_clean()


async def test_a_store_that_is_away_is_no_fault_of_the_video(bench: Bench) -> None:
    order = bench.order()
    bench.blobs.is_down = True
    with pytest.raises(Unavailable) as caught:
        await bench.extract(order)
    assert caught.value.code == "storage_unavailable"


async def test_a_full_disk_is_no_fault_of_the_video(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workspace, "free_bytes", 1_000)
    with pytest.raises(Unavailable) as caught:
        await bench.extract(bench.order())
    assert caught.value.code == "disk_full"


@pytest.mark.parametrize("oddity", ["headless", "sound-only"])
async def test_a_video_that_cannot_be_read_is_refused_with_its_own_code(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, oddity: str
) -> None:
    clip = ODDITIES[oddity](tmp_path_factory.mktemp("clip"))
    with pytest.raises(FramesError) as caught:
        await bench.extract(bench.order(data=clip.path.read_bytes()))
    assert caught.value.code == {"headless": "truncated", "sound-only": "not_a_video"}[oddity]
    bench.assert_clean()


async def test_work_that_takes_too_long_ends_for_good(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(timeout_s=0.3)
    with pytest.raises(FramesError) as caught:
        await bench.extract(bench.order(data=video(6.0)))
    assert caught.value.code == "takes_too_long"
    bench.assert_clean()


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("tests.pipelines.sandbox_work:crash", "damaged"),
        ("tests.pipelines.sandbox_work:echo", "damaged"),
        ("tests.frames:hoard", "takes_too_much"),
    ],
    ids=["it crashes", "it answers nonsense", "it takes all memory"],
)
async def test_a_broken_decoder_condemns_its_video_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, work: str, code: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(extraction_module, "SURVEY_WORK", work)
        with pytest.raises(FramesError) as caught:
            await bench.extract(bench.order())
    assert caught.value.code == code
    bench.assert_clean()
    assert (await bench.extract(bench.order())).frames


async def test_closing_the_messages_ends_the_work_and_its_process(bench: Bench) -> None:
    messages = bench.messages(bench.order(data=video(6.0)))
    async with aclosing(messages):
        assert isinstance(await anext(messages), Progress)
        assert len(children()) == 1
    bench.assert_clean()
    assert bench.stored == []


async def test_messages_end_with_the_result_or_with_what_is_wrong(bench: Bench) -> None:
    *news, result = [message async for message in bench.messages(bench.order())]
    assert isinstance(result, FramesResult)
    assert news and all(isinstance(one, Progress) for one in news)
    (failure,) = [message async for message in bench.messages(bench.order(data=b"no video at all"))]
    assert failure == FramesFailure("not_a_video", failure.message, may_pass=False)
    order = bench.order()
    bench.blobs.is_down = True
    (failure,) = [message async for message in bench.messages(order)]
    assert isinstance(failure, FramesFailure)
    assert (failure.code, failure.may_pass) == ("storage_unavailable", True)


async def test_videos_beyond_the_limit_wait_for_their_turn(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_at_once=1)
    order, most = bench.order(), 0
    works = [asyncio.create_task(bench.extract(order, "off")) for _ in range(2)]

    async def watch() -> bool:
        nonlocal most
        most = max(most, len(list(bench.workspace.path.iterdir())))
        return all(work.done() for work in works)

    await eventually(watch)
    assert most == 1
    assert all(work.result().frames for work in works)
