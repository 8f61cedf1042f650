"""Stills and pictures on their way to a training: what is asked of the Frames replicas, and what may go wrong."""

import pytest

from pipelines.request import MOMENT_S, FramesRequest, StoredFile, TrainingSource
from serving.backends.frames import FramesFailure
from serving.errors import BackendLost, Unavailable
from tests.serving.training.conftest import JOB_ID, PREFIX, Bench


def asked(bench: Bench) -> list[FramesRequest]:
    requests = [order.request for order in bench.stills.orders]
    return [request for request in requests if isinstance(request, FramesRequest)]


async def test_a_video_is_asked_for_lossless_stills_as_the_recipe_wants_them(bench: Bench) -> None:
    await bench.train(bench.order(frames={"max_per_video": 4, "faces": "require"}))
    (request,), (order,) = asked(bench), bench.stills.orders
    assert (request.max_frames, request.faces, request.dedupe) == (4, "require", True)
    assert (request.output_format, request.duration_s) == ("png", 4.0)
    assert (order.job_id, order.tenant) == (JOB_ID, "alice")
    assert order.output_prefix == f"temp/{JOB_ID}/stills/upl_1-"


@pytest.mark.parametrize(("num_first", "dedupe"), [(5, [True]), (4, [True, False])])
async def test_where_stills_are_few_near_duplicates_are_let_in(
    bench: Bench, num_first: int, dedupe: list[bool]
) -> None:
    bench.stills.counts.append(num_first)
    made = await bench.train(bench.order(frames={"max_per_video": 8, "enough": 5}))
    assert [request.dedupe for request in asked(bench)] == dedupe
    assert [request.moment_s < MOMENT_S for request in asked(bench)] == [not is_wished for is_wished in dedupe]
    assert made.frames_used == (num_first if len(dedupe) == 1 else 8) - 1


async def test_several_videos_are_kept_apart_and_each_gives_its_contact_sheet(bench: Bench) -> None:
    await bench.train(bench.order(bench.source("upl_1"), bench.source("upl_2", b"another video")))
    assert {f"contact-upl_{n}.jpg" for n in (1, 2)} < set(bench.stored())
    assert bench.blobs.get(f"{PREFIX}contact-upl_2.jpg") == b"a contact sheet"
    assert len({request.upload_id for request in asked(bench)}) == 2


async def test_a_fault_of_a_video_keeps_its_code_and_what_may_pass_is_no_fault(bench: Bench) -> None:
    bench.stills.troubles.append(FramesFailure("truncated", "It is cut off.", may_pass=False))
    failure = await bench.fail(bench.order())
    assert (failure.code, failure.message, failure.may_pass) == ("truncated", "It is cut off.", False)
    for trouble in (FramesFailure("disk_full", "No room.", may_pass=True), Unavailable("Nobody.", code="disk_full")):
        bench.stills.troubles.append(trouble)
        failure = await bench.fail(bench.order())
        assert (failure.code, failure.may_pass) == ("disk_full", True)
    bench.assert_clean()


@pytest.mark.parametrize("num_lost", [2, 3])
async def test_a_video_that_takes_its_workers_with_it_is_given_up(bench: Bench, num_lost: int) -> None:
    bench.stills.troubles.extend([BackendLost("killed")] * num_lost)
    if num_lost < 3:
        assert (await bench.train(bench.order())).frames_used == 2
    else:
        failure = await bench.fail(bench.order())
        assert (failure.code, failure.may_pass) == ("workers_lost", False)


async def test_a_picture_that_is_gone_or_another_by_now_is_a_failure_for_good(bench: Bench) -> None:
    picture = bench.picture()
    other = TrainingSource("upl_9", "image", StoredFile(picture.file.key, "ab" * 32))
    for source in (other, picture):
        if source is picture:
            bench.blobs.delete(picture.file.key)
        failure = await bench.fail(bench.order(source))
        assert (failure.code, failure.may_pass) == ("upload_gone", False)


async def test_a_note_of_another_version_does_not_count(bench: Bench) -> None:
    bench.blobs.put(f"temp/{JOB_ID}/stills/upl_1.json", b'{"stills": 3}', "application/json")
    await bench.train(bench.order())
    assert len(asked(bench)) == 1
