"""darkroom frames, over a socket against the true routes: stills and sheet on the disk, counts on stdout."""

from pathlib import Path

import pytest
from PIL import Image

from serving.backends.frames import FramesFailure
from serving.cli import uploads
from tests.frames import SIZE, video
from tests.serving.cli.true_server import Wires, darkroom
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, on_a_port

PART_BYTES = 5_242_880


@pytest.fixture(autouse=True)
def _clip(tmp_path: Path, _own_world: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "My clip.mp4").write_bytes(video())
    monkeypatch.setattr(uploads, "PAUSE_S", 0.0)


async def test_stills_and_sheet_are_saved_and_counted_by_reason(house: House, address: str, tmp_path: Path) -> None:
    result = await darkroom(house, address, "frames", "My clip.mp4", "--max-frames", "3", "--out", "stills")
    assert result.exit_code == 0, result.stderr
    counts = dict(line.split("\t") for line in result.stdout.splitlines())
    (job,) = await house.store.page("alice", status=None, kind="frames", limit=2, after=None)
    assert job.result is not None
    assert counts.pop("kept") == "3"
    assert sum(map(int, counts.values())) == len(job.result.rejected)
    assert job.request.max_frames == 3
    saved = sorted(path.name for path in (tmp_path / "stills").iterdir())
    times = [f"my-clip-{frame.time_s:09.3f}s.jpg" for frame in job.result.frames]
    assert saved == sorted([*times, "my-clip-contact-sheet.jpg"])
    with Image.open(tmp_path / "stills" / times[0]) as picture:
        assert picture.size == SIZE
    assert (
        result.stderr == "3 stills are in stills; stills/my-clip-contact-sheet.jpg shows them, and what was dropped.\n"
    )


async def test_every_option_reaches_the_job(house: House, address: str) -> None:
    options = ["--min-sharpness", "5", "--faces", "prefer", "--no-dedupe", "--format", "png"]
    result = await darkroom(house, address, "frames", "My clip.mp4", *options)
    assert result.exit_code == 0, result.stderr
    (job,) = await house.store.page("alice", status=None, kind="frames", limit=2, after=None)
    wanted = job.request
    assert (wanted.min_sharpness, wanted.faces, wanted.dedupe, wanted.output_format) == (5, "prefer", False, "png")


async def test_a_large_file_goes_in_parts_and_only_what_failed_goes_again(houses: OpenHouse, tmp_path: Path) -> None:
    house = await houses(uploads={"multipart_above_bytes": 1_000, "part_bytes": PART_BYTES})
    padding = 6_000_000  # a box of MP4 that players skip
    data = video() + padding.to_bytes(4, "big") + b"free" + bytes(padding - 8)
    (tmp_path / "large.mp4").write_bytes(data)
    wires = Wires(house.blobs, troubles=(503,))
    async with on_a_port(house.app) as address:
        result = await darkroom(house, address, "frames", "large.mp4", "--max-frames", "1", wires=wires)
    assert result.exit_code == 0, result.stderr
    assert wires.sent == [PART_BYTES, PART_BYTES, len(data) - PART_BYTES]


async def test_a_store_that_takes_nothing_is_told_in_one_line(house: House, address: str) -> None:
    wires = Wires(house.blobs, troubles=(503,) * uploads.NUM_TRIES)
    result = await darkroom(house, address, "frames", "My clip.mp4", wires=wires)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "The object store at https://s3.test answered 503 to the file.\n"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("notes.mp4", b"these are my notes" * 100, "A video is needed"),
        ("empty.mp4", b"", "The file is empty."),
        ("notes.txt", b"these are my notes", "no ending that says which kind of video it is"),
        ("none.mp4", None, "cannot be read"),
    ],
)
async def test_what_is_no_video_is_told_in_one_line(
    house: House, address: str, tmp_path: Path, name: str, data: bytes | None, said: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    result = await darkroom(house, address, "frames", name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


async def test_a_job_that_fails_says_why(house: House, address: str, tmp_path: Path) -> None:
    house.extractions.troubles.append(FramesFailure("damaged", "The video cannot be read.", may_pass=False))
    result = await darkroom(house, address, "frames", "My clip.mp4")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("failed: The video cannot be read. (damaged)\n")
    assert not (tmp_path / "frames").exists()
