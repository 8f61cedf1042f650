"""Looking at one upload, in the sandbox: media facts, cleaned files, and refusals that say what the file is."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.sandbox import Bounds, WorkRefused, run_apart
from tests.clips import make_clip
from tests.pipelines.intake.pictures import drawing, encoded, exif

BOUNDS = Bounds(wall_s=60, memory_bytes=1_000_000_000, file_bytes=100_000_000)
LIMITS = {
    "min_image_px": 256,
    "max_image_px": 4_096,
    "thumbnail_px": 200,
    "max_video_s": 60.0,
    "max_video_px": 1_000_000,
}


async def look(path: Path, purpose: str, **limits: float) -> dict[str, Any]:
    folder = path.parent / "made"
    folder.mkdir(exist_ok=True)
    arguments = {"path": str(path), "folder": str(folder), "purpose": purpose, "limits": LIMITS | limits}
    return await run_apart("pipelines.intake.look:look", arguments, bounds=BOUNDS)


async def refusal(path: Path, purpose: str, **limits: float) -> WorkRefused:
    with pytest.raises(WorkRefused) as caught:
        await look(path, purpose, **limits)
    assert not any((path.parent / "made").iterdir())
    return caught.value


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Under a name that says something else."""
    path = tmp_path / "photo.mp4"
    path.write_bytes(encoded(drawing(), "JPEG", exif=exif(6, taken_at="2026:05:31 23:59:58")))
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.png.mp4", fps=10, seconds=2.0, size=(320, 192), rotation=90).path


async def test_a_photograph_is_described_and_cleaned(photo: Path) -> None:
    result = await look(photo, "image")
    assert result["media"] == {
        "kind": "image",
        "width": 256,
        "height": 320,
        "codec": "jpeg",
        "orientation": 6,
        "taken_at": "2026-05-31T23:59:58",
        "had_private_data": True,
    }
    assert (result["content_type"], result["thumbnail_type"]) == ("image/jpeg", "image/webp")
    with Image.open(result["cleaned"]) as cleaned, Image.open(result["thumbnail"]) as thumbnail:
        assert (cleaned.format, cleaned.size) == ("JPEG", (256, 320))
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (160, 200))
    assert {path.name for path in (photo.parent / "made").iterdir()} == {"cleaned.jpeg", "thumbnail.webp"}


async def test_a_video_is_described_as_a_player_shows_it(clip: Path) -> None:
    media = (await look(clip, "video"))["media"]
    assert media == {
        "kind": "video",
        "width": media["width"],
        "height": media["height"],
        "duration_s": pytest.approx(2.0, abs=0.01),
        "fps": pytest.approx(10.0),
        "rotation": 90,
        "codec": "h264",
        "container": "mov",
        "num_frames": 20,
        "transfer": "sdr",
        "bit_depth": 8,
    }
    assert {media["width"], media["height"]} == {320, 192}


async def test_a_picture_is_no_video_and_a_video_no_picture(photo: Path, clip: Path) -> None:
    for path, purpose, words in ((photo, "video", "JPEG"), (clip, "image", "MP4")):
        caught = await refusal(path, purpose)
        assert caught.code == "type_mismatch"
        assert words in str(caught)


async def test_limits_of_videos_hold(clip: Path) -> None:
    too_long = await refusal(clip, "video", max_video_s=1.5)
    assert too_long.code == "too_long"
    assert (await refusal(clip, "video", max_video_px=10_000)).code == "too_many_pixels"


@pytest.mark.parametrize(
    ("data", "purpose", "code", "words"),
    [
        (b"", "video", "empty_file", "empty"),
        (b"", "image", "empty_file", "empty"),
        (b"Dear all,\n", "video", "not_a_video", "text"),
        (b"%PDF-1.7\n", "image", "bad_image", "PDF"),
        (b"PK\x03\x04" + bytes(50), "video", "not_a_video", "zip"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "video", "not_a_video", "playlist"),
        (b"<svg/>", "image", "bad_image", "SVG"),
        (encoded(drawing(), "GIF"), "image", "bad_image", "GIF"),
        (encoded(drawing(), "GIF"), "video", "type_mismatch", "GIF"),
        (b"\x00\x01\x02\x03" * 99, "video", "not_a_video", "none of the formats"),
        (b"\x00\x01\x02\x03" * 99, "image", "bad_image", "no kind"),
    ],
)
async def test_what_it_is_instead_is_said(tmp_path: Path, data: bytes, purpose: str, code: str, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    caught = await refusal(path, purpose)
    assert caught.code == code
    assert words in str(caught)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
async def test_the_largest_picture_fits_into_the_memory_of_a_check(tmp_path: Path, format: str) -> None:
    path = tmp_path / "large"
    noise = Image.effect_noise((1_024, 1_024), 60).convert("RGB").resize((4_096, 4_096), Image.Resampling.NEAREST)
    path.write_bytes(encoded(noise, format, lossless=True, method=0))
    assert (await look(path, "image"))["media"]["width"] == 4_096
