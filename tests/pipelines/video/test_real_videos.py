"""Real files, each odd in its own way, where they lie beside the project."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from configs.settings import PROJECT_DIR
from pipelines.video.bars import find_bars
from pipelines.video.decoding import open_video
from pipelines.video.info import VideoError, VideoLimits
from pipelines.video.probing import probe

VIDEOS = PROJECT_DIR.parent / "shared/data/videos"
FILES = sorted(path for path in VIDEOS.iterdir() if path.is_file()) if VIDEOS.is_dir() else []
EVERY_FRAME_HZ = 1_000.0

pytestmark = pytest.mark.skipif(not VIDEOS.is_dir(), reason="the real videos are not there")


@dataclass(frozen=True)
class Known:
    """What a player makes of it."""

    width_px: int
    height_px: int
    rotation: int
    duration_s: float
    num_shown: int
    num_damaged: int = 0


KNOWN = {
    "signer-again.mkv": Known(640, 480, 0, 2.57, 77),
    "signer-bird.mkv": Known(640, 480, 0, 2.10, 63),
    "signer-book.mkv": Known(640, 480, 0, 3.63, 109),
    "signer-brother.mkv": Known(640, 480, 0, 2.20, 65),
    "bottles.mp4": Known(640, 360, 0, 39.85, 1_189),
    "nasa.mp4": Known(480, 270, 0, 13.01, 390),  # the larger of two default streams
    "hevc-10bit.mp4": Known(200, 200, 0, 1.0, 30),
    "rotated-90.mov": Known(320, 568, 90, 0.1, 3),
    "corrupted.mp4": Known(1280, 720, 0, 5.0, 48, num_damaged=2),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_real_video_is_read_to_its_end(name: str) -> None:
    path, known = VIDEOS / name, KNOWN[name]
    info = probe(path, VideoLimits(max_s=60, max_px=1_000_000))
    assert (info.width_px, info.height_px, info.rotation) == (known.width_px, known.height_px, known.rotation)
    assert info.duration_s == pytest.approx(known.duration_s, abs=0.02)
    with open_video(path) as video:
        times_s = [still.time_s for still in video.survey(EVERY_FRAME_HZ, 64)]
        assert video.num_damaged == known.num_damaged
        assert len(times_s) == known.num_shown
        assert times_s[0] == 0.0 and np.diff(times_s).min() > 0
        assert times_s[-1] == pytest.approx(known.duration_s, abs=0.15)
        stills = list(video.take(times_s[:: max(1, len(times_s) // 5)]))
        assert {still.rgb.shape for still in stills} == {(known.height_px, known.width_px, 3)}
        assert [still.time_s for still in stills] == times_s[:: max(1, len(times_s) // 5)]


def test_a_dark_video_has_no_bars() -> None:
    with open_video(VIDEOS / "nasa.mp4") as video:
        assert find_bars(video.survey(8, 320)).is_whole


def test_after_the_damage_the_pictures_are_good_again() -> None:
    with open_video(VIDEOS / "corrupted.mp4") as video:
        late = [still for still in video.survey(EVERY_FRAME_HZ, 320) if still.time_s > 3.5]
    assert len(late) >= 14
    assert min(float(still.rgb.std()) for still in late) > 30


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in KNOWN], ids=lambda path: path.name)
def test_any_other_video_gives_stills_or_a_clear_refusal(path: Path) -> None:
    try:
        with open_video(path) as video:
            assert any(True for _ in video.survey(1, 64))
    except VideoError as error:
        assert str(error).endswith(".")
