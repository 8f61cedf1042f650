"""What an attempt finds that others left: after a crash, a kill, a lost store. It ends with the very same bytes."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from models.errors import BlobError
from pipelines.request import Progress, TrainedAdapter
from tests.serving.sockets import eventually
from tests.serving.training.conftest import JOB_ID, PREFIX, Bench, children

CHECKPOINT = f"temp/{JOB_ID}/checkpoint.safetensors"


async def undisturbed(bench: Bench) -> bytes:
    """The file of a training that met no trouble."""
    made = await bench.train(bench.order(job_id="job_0", mood={"undisturbed": 1}))
    return bench.blobs.get(made.file.key)


def first_steps(bench: Bench) -> list[int]:
    return [one.step for one in bench.told if isinstance(one, Progress) and one.stage == "train"]


async def test_an_attempt_that_takes_over_goes_on_from_the_stored_checkpoint(bench: Bench) -> None:
    wanted = await undisturbed(bench)
    async with aclosing(bench.messages(bench.order(mood={"hang_at": 5}))) as messages:
        async for message in messages:
            if isinstance(message, Progress) and message.step == 5:
                break

        async def is_stored() -> bool:
            return bench.blobs.exists(CHECKPOINT) and b"[4," in bench.blobs.get(CHECKPOINT)

        await eventually(is_stored)
    bench.assert_clean()
    num_asked = len(bench.stills.orders)
    made = await bench.train(bench.order(mood={}))
    assert first_steps(bench) == [5, 6]
    assert len(bench.stills.orders) == num_asked, "the dataset was whole"
    assert bench.blobs.get(made.file.key) == wanted


async def test_stills_that_were_taken_before_are_not_taken_again(bench: Bench) -> None:
    sources = bench.source("upl_1"), bench.source("upl_2", b"another video")
    bench.stills.troubles.extend([None, BlobError("gone")])
    with pytest.raises(BlobError):
        await bench.outcome(bench.order(*sources))
    assert isinstance(await bench.outcome(bench.order(*sources)), TrainedAdapter)
    asked = [order.request.upload_id for order in bench.stills.orders]  # type: ignore[union-attr]
    assert asked == ["upl_1", "upl_2", "upl_2"]


async def test_stills_that_are_gone_are_taken_again_by_the_next_attempt(bench: Bench) -> None:
    bench.stills.troubles.extend([None, BlobError("gone")])
    order = bench.order(bench.source("upl_1"), bench.source("upl_2", b"another video"))
    with pytest.raises(BlobError):
        await bench.outcome(order)
    bench.blobs.delete(f"temp/{JOB_ID}/stills/upl_1-000.png")
    failure = await bench.fail(order)
    assert (failure.code, failure.may_pass) == ("stills_gone", True)
    assert isinstance(await bench.outcome(order), TrainedAdapter)


@pytest.mark.parametrize("steps", [[3], [0, 1, 3, 5]])
async def test_a_child_that_crashes_goes_on_and_ends_with_the_same_bytes(bench: Bench, steps: list[int]) -> None:
    wanted = await undisturbed(bench)
    made = await bench.train(bench.order(mood={"crash_once_at": steps}))
    assert bench.blobs.get(made.file.key) == wanted
    bench.assert_clean()


async def test_a_child_that_is_killed_goes_on_and_ends_with_the_same_bytes(bench: Bench) -> None:
    wanted = await undisturbed(bench)
    working = asyncio.create_task(bench.outcome(bench.order(mood={"hang_at": 3})))

    async def hangs() -> bool:
        return bool(first_steps(bench)) and first_steps(bench)[-1] == 3

    for _ in range(2):
        await eventually(hangs)
        bench.told.clear()
        (child,) = children()
        child.kill()
    await eventually(hangs)
    (child,) = children()
    assert not working.done()
    working.cancel()
    await asyncio.wait({working})
    made = await bench.train(bench.order(mood={}))
    assert bench.blobs.get(made.file.key) == wanted


@pytest.mark.parametrize(
    ("mood", "code"),
    [({"crash_always_at": 3}, "training_crashed"), ({"out_of_memory_at": 3}, "out_of_memory")],
)
async def test_one_that_breaks_again_and_again_without_a_step_forward_fails(
    make_bench: Callable[..., Bench], mood: dict[str, Any], code: str
) -> None:
    bench = make_bench(max_crashes=2)
    failure = await bench.fail(bench.order(mood=mood))
    assert (failure.code, failure.may_pass) == (code, False)
    assert first_steps(bench) == [1, 2, 3, 3], "twice in all, the second time from its checkpoint"
    bench.assert_clean()


async def test_a_store_that_is_away_meanwhile_costs_no_training(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put_file, num_refused = bench.blobs.put_file, 0

    def put_no_checkpoint(key: str, *rest: Any) -> None:
        nonlocal num_refused
        if key == CHECKPOINT:
            num_refused += 1
            raise BlobError("no answer")
        put_file(key, *rest)

    monkeypatch.setattr(bench.blobs, "put_file", put_no_checkpoint)
    await bench.train(bench.order())
    assert num_refused > 0 and CHECKPOINT not in bench.blobs.keys


async def test_a_store_that_is_away_at_the_end_is_tried_again_and_nothing_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = await undisturbed(bench)
    put_file = bench.blobs.put_file

    def put_no_adapter(key: str, *rest: Any) -> None:
        if key.endswith("adapter.safetensors"):
            raise BlobError("no answer")
        put_file(key, *rest)

    with monkeypatch.context() as away:
        away.setattr(bench.blobs, "put_file", put_no_adapter)
        failure = await bench.fail(bench.order())
    assert (failure.code, failure.may_pass) == ("storage_unavailable", True)
    made = await bench.train(bench.order())
    assert first_steps(bench) == [], "all steps were done"
    assert bench.blobs.get(made.file.key) == wanted


async def test_two_trainings_of_one_replica_do_not_touch_each_other(bench: Bench) -> None:
    fine, broken = await asyncio.gather(
        bench.outcome(bench.order(job_id="job_5", mood={})),
        bench.outcome(bench.order(job_id="job_6", mood={"crash_always_at": 1})),
    )
    assert isinstance(fine, TrainedAdapter)
    assert bench.stored(PREFIX.replace(JOB_ID, "job_6")) != []
    assert broken.code == "training_crashed"  # type: ignore[union-attr]
