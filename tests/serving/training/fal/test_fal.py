"""fal.ai as a trainer: what goes there, what comes back, and that nothing is paid twice."""

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from models.adapters import hash_file
from serving.backends.training import TrainingError
from serving.errors import Unavailable
from serving.training.fal import ENDPOINTS, FalOutcome
from tests.fake_fal import FakeFal, cut_off, error
from tests.serving.house import eventually
from tests.serving.training.fal.attempts import FAST, GONE, PAUSES_S, Attempts, training_request
from tests.training.stills import film, prepare_order
from training.prepare import prepare


async def test_a_dataset_goes_there_and_a_file_comes_back(fal: FakeFal, attempts: Attempts) -> None:
    outcome = await attempts.train()
    assert attempts.target.read_bytes() == fal.file
    assert outcome == FalOutcome("req-0", hash_file(attempts.target), len(fal.file), 41.5)
    (asked,) = fal.asked
    assert asked.endpoint == FAST
    assert {name: value for name, value in asked.body.items() if name != "images_data_url"} == {
        "trigger_word": "sks person",
        "steps": 100,
        "data_archive_format": "zip",
    }


async def test_what_is_learned_goes_along_with_its_captions_and_what_is_held_out_stays(
    fal: FakeFal, attempts: Attempts, dataset: Path
) -> None:
    await attempts.train()
    archive = fal.asked[0].archive("images_data_url")
    learned = ["0000", "0001", "0002", "0004", "0005"]
    assert sorted(archive) == sorted(f"{name}.{end}" for name in learned for end in ("png", "txt"))
    assert archive["0004.txt"] == b"sks person"
    assert archive["0004.png"] == (dataset / "dataset/images/0004.png").read_bytes()


async def test_the_same_dataset_is_the_same_archive(fal: FakeFal, attempts: Attempts) -> None:
    for _ in range(2):
        attempts.kept = {}
        await attempts.train()
    assert fal.asked[0].body == fal.asked[1].body


async def test_a_large_dataset_goes_by_a_url(fal: FakeFal, attempts: Attempts) -> None:
    await attempts.train(max_inline_bytes=1_000)
    assert fal.asked[0].body["images_data_url"] == "https://store.test/archive?signature=1"
    assert [path.stat().st_size > 1_000 for path in attempts.presigned] == [True]


async def test_its_log_becomes_progress(attempts: Attempts, fal: FakeFal) -> None:
    fal.polls_needed = 4
    await attempts.train()
    assert [(one.step, one.steps, one.stage) for one in attempts.told] == [
        (0, 100, "train"),
        (25, 100, "train"),
        (50, 100, "train"),
        (75, 100, "train"),
        (100, 100, "publish"),
    ]


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS))
async def test_every_trainer_is_asked_in_its_own_words(endpoint: str, fal: FakeFal, attempts: Attempts) -> None:
    table = ENDPOINTS[endpoint]
    fal.result_field = table.result
    await attempts.train(training_request(recipe="style"), endpoint)
    body = fal.asked[0].body
    assert fal.asked[0].endpoint == endpoint
    assert fal.asked[0].archive(table.archive)
    assert (body[table.trigger], body["steps"]) == ("sks person", 100)
    assert table.for_style.items() <= body.items()


@pytest.mark.parametrize("after", ["ticket", "poll", "file"])
async def test_after_a_kill_the_same_job_is_not_paid_twice(after: str, fal: FakeFal, attempts: Attempts) -> None:
    """Killed, a process cancels nothing; its calls just end."""
    fal.polls_needed = 3
    trouble = {"ticket": "status", "poll": "result", "file": "file"}[after]
    fal.troubles[trouble] = deque([error(503, {})] * 20)
    with pytest.raises(Unavailable):
        await attempts.train()
    fal.troubles.clear()
    outcome = await attempts.train()
    assert (len(fal.asked), outcome.request_id) == (1, "req-0")
    assert attempts.target.read_bytes() == fal.file


async def test_the_mark_is_kept_before_it_is_asked_and_again_before_the_first_look(
    fal: FakeFal, attempts: Attempts
) -> None:
    await attempts.train()
    asked, taken = attempts.kept_as
    assert asked.keys() == {"endpoint", "asked_at"}
    assert taken["ticket"]["request_id"] == "req-0"


async def test_killed_while_it_asked_nobody_asks_again(fal: FakeFal, attempts: Attempts) -> None:
    attempts.kept = {"endpoint": FAST, "asked_at": 1.0}
    with pytest.raises(TrainingError, match="may be paid already") as caught:
        await attempts.train()
    assert (caught.value.code, fal.calls) == ("provider_unclear", [])


async def test_a_request_whose_answer_is_lost_is_not_made_again(fal: FakeFal, attempts: Attempts) -> None:
    fal.troubles["submit"].append(cut_off)
    with pytest.raises(TrainingError, match="did not say whether it took the request") as caught:
        await attempts.train()
    assert (caught.value.code, fal.calls) == ("provider_unclear", ["submit"])
    with pytest.raises(TrainingError, match="may be paid already"):
        await attempts.train()


@pytest.mark.parametrize("trouble", [error(429, {"detail": "slow down"}), error(500, {}), error(503, {})])
async def test_a_request_that_was_turned_away_is_made_again(trouble: Any, fal: FakeFal, attempts: Attempts) -> None:
    fal.troubles["submit"] = deque([trouble] * len(PAUSES_S))
    await attempts.train()
    assert len(fal.asked) == 1


async def test_while_nobody_is_there_it_can_be_tried_another_time(attempts: Attempts) -> None:
    with pytest.raises(Unavailable) as caught:
        await attempts.train(queue_url=GONE)
    assert (caught.value.code, attempts.kept) == ("provider_unavailable", {})


async def test_cancelled_it_is_called_off_there(fal: FakeFal, attempts: Attempts) -> None:
    fal.polls_needed = 10_000
    work = asyncio.create_task(attempts.train())
    await eventually(lambda: "status" in fal.calls)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert [asked.is_cancelled for asked in fal.asked] == [True]
    assert attempts.kept == {}


async def test_cancelled_while_it_asks_it_is_called_off_all_the_same(fal: FakeFal, attempts: Attempts) -> None:
    fal.held = "submit"
    work = asyncio.create_task(attempts.train())
    await eventually(lambda: fal.asked)
    work.cancel()
    await asyncio.sleep(0)
    fal.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert [asked.is_cancelled for asked in fal.asked] == [True]


async def test_what_was_completed_meanwhile_is_not_called_off_but_fetched_later(
    fal: FakeFal, attempts: Attempts
) -> None:
    fal.held = "file"
    work = asyncio.create_task(attempts.train())
    await eventually(lambda: "file" in fal.calls)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    fal.gate.set()
    assert "cancel" in fal.calls
    assert (await attempts.train()).request_id == "req-0"
    assert len(fal.asked) == 1


async def test_one_that_does_not_end_is_called_off(fal: FakeFal, attempts: Attempts) -> None:
    fal.polls_needed = 10_000
    with pytest.raises(TrainingError) as caught:
        await attempts.train(timeout_s=0.2)
    assert caught.value.code == "takes_too_long"
    assert fal.asked[0].is_cancelled


async def test_fewer_pictures_than_it_takes_are_not_sent(fal: FakeFal, tmp_path: Path) -> None:
    prepare(prepare_order(tmp_path, film(tmp_path, 4)).to_dict(), lambda _: None)
    with pytest.raises(TrainingError, match="3 pictures can be learned from; fal.ai takes 4 or more") as caught:
        await Attempts(fal, tmp_path).train()
    assert (caught.value.code, fal.calls) == ("too_few_pictures", [])


def test_an_endpoint_that_is_not_in_the_table_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fal-ai/nothing is unknown; there are: fal-ai/flux-2"):
        Attempts(FakeFal(), tmp_path).trainer("fal-ai/nothing")
