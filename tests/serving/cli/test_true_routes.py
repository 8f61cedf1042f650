"""The commands that make and cancel pictures, over a socket against the true routes; the engine and S3 are fakes."""

from pathlib import Path

from PIL import Image

from models.errors import NotFinite
from tests.serving.api.conftest import mask_bytes, picture_bytes
from tests.serving.cli.true_server import darkroom
from tests.serving.house import House


async def test_an_edit_starts_from_the_file_and_saves_what_was_made(house: House, address: str, tmp_path: Path) -> None:
    (tmp_path / "apple.png").write_bytes(picture_bytes(96, 64))
    (tmp_path / "mask.png").write_bytes(mask_bytes(96, 64))
    options = ("--mask", "mask.png", "--strength", "0.5", "--seed", "7", "--steps", "4", "--format", "webp", "-n", "2")
    result = await darkroom(house, address, "edit", "apple.png", "a green apple", *options)
    assert result.stdout.splitlines() == [f"pictures/a-green-apple-{seed}.webp" for seed in (7, 8)], result.stderr
    with Image.open("pictures/a-green-apple-7.webp") as picture:
        assert (picture.format, picture.size) == ("WEBP", (96, 64))
    (job,) = await house.store.page("alice", status=None, kind=None, limit=2, after=None)
    request = job.request
    assert request.image is not None
    assert house.blobs.get(request.image.key) == picture_bytes(96, 64)
    assert request.mask is not None
    assert (request.strength, request.num_inference_steps, request.num_images) == (0.5, 4, 2)


async def test_a_generation_saves_the_same_as_the_house_made(house: House, address: str, tmp_path: Path) -> None:
    result = await darkroom(house, address, "generate", "a red apple", "--seed", "7", "--size", "64x64")
    assert result.stdout == "pictures/a-red-apple-7.png\n", result.stderr
    (key,) = house.blobs.keys
    assert (tmp_path / "pictures/a-red-apple-7.png").read_bytes() == house.blobs.get(key)


async def test_a_running_job_is_cancelled_and_an_ended_one_is_not(house: House, address: str) -> None:
    house.backend.gate.clear()
    job = await house.insert()
    await house.until(job, "running")
    result = await darkroom(house, address, "cancel", job.id)
    assert (result.exit_code, result.stdout) == (0, "cancelled\n")
    house.backend.gate.set()
    ended = await house.insert()
    await house.until(ended, "succeeded")
    refused = await darkroom(house, address, "cancel", ended.id)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "succeeded" in refused.stderr


async def test_failed_jobs_are_listed_and_made_after_all(house: House, address: str) -> None:
    house.backend.troubles.append(NotFinite("NaN in the picture"))
    job = await house.insert()
    await house.until(job, "failed")
    listed = await darkroom(house, address, "jobs", "--status", "failed")
    assert listed.stdout.rstrip("\n").split("\t")[4:] == ["not_finite", "NaN in the picture"]
    for owed in await house.upkeep.find_owed(limit=10):
        await house.upkeep.clear_owed(owed)
    result = await darkroom(house, address, "retry", job.id)
    assert (result.exit_code, result.stdout) == (0, f"{job.id}\n"), result.stderr
    await house.until(job, "succeeded")
    shown = (await darkroom(house, address, "jobs", job.id)).stdout
    assert "attempt.1\tnot_finite: NaN in the picture\n" in shown
