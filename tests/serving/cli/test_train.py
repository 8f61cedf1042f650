"""darkroom train, over a socket against the true routes: from files to a LoRA that the next picture uses."""

import asyncio
from pathlib import Path

import httpx
import pytest

from serving.backends.training import TrainingError, TrainingFailure
from serving.cli import following, uploads
from serving.cli.following import read_events
from serving.errors import Unavailable
from tests.frames import video
from tests.serving.api.conftest import picture_bytes
from tests.serving.cli.true_server import Wires, darkroom
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually, on_a_port

GOOD = ("train", "clip.mp4", "--name", "signer", "--trigger", "sks person", "--steps", "30", "--seed", "7")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, _own_world: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(video())
    (tmp_path / "face.png").write_bytes(picture_bytes(300, 300))
    monkeypatch.setattr(uploads, "PAUSE_S", 0.0)
    monkeypatch.setattr(following, "PAUSE_S", 0.02)


class Breaking(Wires):
    """The first streams of events end in `error`; how many were asked for in all."""

    def __init__(self, house: House, *errors: BaseException) -> None:
        super().__init__(house.blobs)
        self.errors = list(errors)
        self.num_streams = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            self.num_streams += 1
            if self.errors:
                raise self.errors.pop()
        return super().handle_request(request)


async def test_files_become_a_lora_that_the_next_picture_uses(house: House, address: str, tmp_path: Path) -> None:
    options = ("face.png", "--base-model", "emoji-3d", "--recipe", "style", "--rank", "4", "--resolution", "64")
    result = await darkroom(house, address, *GOOD, *options, "--caption", "none", "--out", "proof")
    assert result.exit_code == 0, result.stderr
    told = dict(line.split("\t") for line in result.stdout.splitlines())
    assert told["adapter"] == "signer@1"
    assert (told["frames_used"], told["frames_rejected"]) == ("6", "1 blurry")
    assert told["loss"] == "0.5000 → 0.2500 (-50%)"
    assert told["held_out_loss"] == "0.4000 → 0.3000 (-25%)"
    assert told["held_out_distance"] == "0.5000 → 0.3000 (-40%)"
    saved = sorted(path.name for path in (tmp_path / "proof").iterdir())
    assert saved == ["loss.png", "step-00000-seed-0.png", "step-00030-seed-30.png"]
    said = result.stderr.splitlines()
    assert "It will take 8 min at most, 30 s of it for stills, and 1.9 GB of memory." in said
    assert said[-1] == 'Use it: darkroom generate "sks person" --lora signer'
    (job,) = await house.store.page("alice", status=None, kind="lora", limit=2, after=None)
    wanted = job.training
    assert (wanted.recipe, wanted.rank, wanted.resolution_px, wanted.seed) == ("style", 4, 64, 7)
    assert [source.kind for source in wanted.sources] == ["video", "image"]
    made = await darkroom(house, address, "generate", "sks person", "--lora", "signer", "--size", "64x64")
    assert made.exit_code == 0, made.stderr
    shown = await darkroom(house, address, "loras", "show", "signer")
    lines = dict(line.split("\t") for line in shown.stdout.splitlines())
    assert (lines["lineage.job_id"], lines["lineage.recipe"]) == (job.id, "style")
    assert lines[f"lineage.upload.{wanted.sources[0].upload_id}"] == "video, stills at 0.50 1.25 2.00 s"
    assert lines[f"lineage.upload.{wanted.sources[1].upload_id}"] == "image"


async def test_stage_step_loss_and_time_to_go_are_told_over_as_many_streams_as_it_takes(
    house: House, address: str
) -> None:
    house.trainer.gate.clear()
    wires = Breaking(house, *[httpx.ReadError("cut off")] * 10_000)
    running = asyncio.create_task(darkroom(house, address, *GOOD, wires=wires))

    async def is_training() -> bool:
        jobs = await house.store.page("alice", status=None, kind="lora", limit=1, after=None)
        return bool(jobs) and jobs[0].stage == "train"

    await eventually(is_training)
    num_streams = wires.num_streams
    await eventually(lambda: wires.num_streams >= num_streams + 2)  # it has asked how the job stands in between
    wires.errors.clear()
    house.trainer.gate.set()
    result = await running
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.splitlines()
    assert " 57 %  train 30/30, loss 0.2500, 12 s left" in lines
    assert "100 %  succeeded" in lines


async def test_without_waiting_the_jobs_id_is_all_and_its_dataset_can_be_learned_from_again(
    house: House, address: str
) -> None:
    result = await darkroom(house, address, *GOOD, "--no-wait")
    assert result.exit_code == 0, result.stderr
    job_id = result.stdout.strip()
    await house.until(await house.store.get("alice", job_id), "succeeded")
    shown = (await darkroom(house, address, "jobs", job_id)).stdout
    assert "adapter\tsigner@1" in shown
    assert "recipe_values" not in shown
    again = ("train", "--name", "signer", "--from-job", job_id, "--caption-file", "0001.png=sks person = waving")
    result = await darkroom(house, address, *again)
    assert result.exit_code == 0, result.stderr
    (job, _) = await house.store.page("alice", status=None, kind="lora", limit=3, after=None)
    assert job.training.captions == (("0001.png", "sks person = waving"),)
    assert "adapter\tsigner@2" in result.stdout


async def test_a_training_that_fails_says_why(house: House, address: str) -> None:
    house.trainer.troubles.append(TrainingFailure("too_few_pictures", "2 pictures are too few.", may_pass=False))
    result = await darkroom(house, address, *GOOD)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("failed: 2 pictures are too few. (too_few_pictures)\n")


async def test_ctrl_c_leaves_the_job_at_work_and_says_how_to_call_it_off(house: House, address: str) -> None:
    house.trainer.gate.clear()
    result = await darkroom(house, address, *GOOD, wires=Breaking(house, KeyboardInterrupt()))
    (job,) = await house.store.page("alice", status=None, kind="lora", limit=2, after=None)
    assert (result.exit_code, result.stdout) == (130, "")
    assert f"darkroom cancel {job.id}" in result.stderr
    assert not job.is_final
    house.trainer.gate.set()
    await house.until(job, "succeeded")


@pytest.mark.parametrize(
    "answer",
    [
        Unavailable("Nobody has measured.", code="trainer_unavailable"),
        TrainingError("not_trainable", "A provider trains it."),
    ],
)
async def test_a_server_that_cannot_estimate_trains_all_the_same(house: House, address: str, answer: Exception) -> None:
    house.trainer.estimate_answer = answer
    result = await darkroom(house, address, *GOOD)
    assert result.exit_code == 0, result.stderr
    assert "How long it will take is not known." in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("clip.mp4", "--name", "No such name"), "name 'No such name' must be"),
        (("clip.mp4", "--name", "signer", "--steps", "0"), "steps must be a whole number"),
        (("--name", "signer"), "upload_ids must name 1 to"),
    ],
)
async def test_what_is_refused_is_told_in_one_line_before_anything_is_trained(
    house: House, address: str, options: tuple[str, ...], said: str
) -> None:
    result = await darkroom(house, address, "train", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr.splitlines()[-1]
    assert house.trainer.orders == []


async def test_nothing_is_sent_where_one_of_the_files_is_of_no_known_kind(
    house: House, address: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("my notes")
    result = await darkroom(house, address, *GOOD, "notes.txt")
    assert result.exit_code == 1
    assert "notes.txt has no ending that says what it is" in result.stderr
    assert await house.services.uploads.store.page("alice", purpose=None, limit=1, after=None) == []


async def test_a_stream_that_runs_into_the_servers_time_limit_is_asked_for_again(houses: OpenHouse) -> None:
    house = await houses(api={"sync_deadline_s": 0.3})
    house.trainer.gate.clear()
    wires = Breaking(house)

    async with on_a_port(house.app) as address:
        result = await darkroom(house, address, *GOOD, "--timeout", "1", wires=wires)
    assert result.exit_code == 1
    assert "Waited 1 s." in result.stderr
    assert wires.num_streams >= 2
    house.trainer.gate.set()


def test_events_are_read_whole_and_comments_as_a_sign_of_life() -> None:
    text = 'event: progress\ndata: {"step": 1}\n\n: keep-alive\n\nevent: preview\ndata: {"a":\ndata: 2}\n\n'
    assert list(read_events(iter(text.split("\n")))) == [
        ("progress", {"step": 1}),
        ("", {}),
        ("preview", {"a": 2}),
    ]
