"""Cuts keep a picture's shape as well as the steps allow, hold its face, and are never enlarged."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.request import Face
from training.buckets import LEAST_SIDE_PX, Cut, cuts_of
from training.recipe import PicturePart, RecipeError

sides = st.integers(16, 4_000)
parts = st.builds(
    PicturePart,
    resolution_px=st.sampled_from([128, 256, 512, 1024]),
    bucket_step_px=st.sampled_from([8, 16, 32, 64]),
    aspect_buckets=st.booleans(),
    square_too=st.booleans(),
    mirror=st.booleans(),
)


@st.composite
def faces_in(draw: st.DrawFn, width_px: int, height_px: int) -> Face:
    width, height = draw(st.integers(1, width_px)), draw(st.integers(1, height_px))
    return Face(draw(st.integers(0, width_px - width)), draw(st.integers(0, height_px - height)), width, height, 0.9)


@given(st.data(), sides, sides, parts, st.sampled_from([8, 16]))
def test_cuts_lie_in_the_picture_and_buckets_keep_their_promises(
    data: st.DataObject, width_px: int, height_px: int, part: PicturePart, multiple_px: int
) -> None:
    faces = data.draw(st.lists(faces_in(width_px, height_px), max_size=2))
    cuts = cuts_of(width_px, height_px, faces, part, multiple_px=multiple_px)
    step_px = math.lcm(part.bucket_step_px, multiple_px)
    assert len(cuts) == len(set(cuts)) >= 1
    for cut in cuts:
        width, height = cut.bucket
        assert cut.left_px >= 0 and cut.left_px + cut.width_px <= width_px
        assert cut.top_px >= 0 and cut.top_px + cut.height_px <= height_px
        assert width % step_px == height % step_px == 0
        assert width * height <= part.resolution_px**2
        assert width <= max(width_px, LEAST_SIDE_PX) and height <= max(height_px, LEAST_SIDE_PX)
        if min(width_px, height_px) >= LEAST_SIDE_PX:
            assert width <= cut.width_px and height <= cut.height_px
            # What is squeezed is less than a pixel of the cut.
            assert abs(cut.width_px - cut.height_px * width / height) < max(1, width / height) + 1e-6
    plain = [cut for cut in cuts if not cut.is_mirrored]
    assert len(cuts) == len(plain) * (2 if part.mirror else 1)
    assert part.aspect_buckets or {cut.target_width_px == cut.target_height_px for cut in cuts} == {True}


@given(st.integers(16, 600), st.integers(16, 600), parts.filter(lambda part: part.bucket_step_px >= 16))
def test_in_no_other_bucket_would_the_whole_picture_be_larger(width_px: int, height_px: int, part: PicturePart) -> None:
    part = part.model_copy(update={"aspect_buckets": True})
    chosen = cuts_of(width_px, height_px, (), part, multiple_px=8)[0].bucket
    widths = range(LEAST_SIDE_PX, max(width_px, LEAST_SIDE_PX) + 1, part.bucket_step_px)
    heights = range(LEAST_SIDE_PX, max(height_px, LEAST_SIDE_PX) + 1, part.bucket_step_px)

    def merit(bucket: tuple[int, int]) -> tuple[float, float]:
        fits = min(bucket[0] / width_px, bucket[1] / height_px)
        return fits, -abs(math.log(bucket[0] / bucket[1] * height_px / width_px))

    others = [(w, h) for w in widths for h in heights if w * h <= part.resolution_px**2]
    best = max(map(merit, others))
    assert merit(chosen) == pytest.approx(best)


@pytest.mark.parametrize(
    ("size", "resolution_px", "bucket"),
    [
        ((1920, 1080), 1024, (1344, 768)),
        ((1080, 1920), 1024, (768, 1344)),
        ((4000, 4000), 1024, (1024, 1024)),
        ((1920, 1080), 512, (640, 384)),
        ((640, 480), 1024, (640, 448)),
        ((300, 200), 512, (256, 192)),
        ((50, 40), 512, (64, 64)),
    ],
)
def test_known_sizes_find_known_buckets(size: tuple[int, int], resolution_px: int, bucket: tuple[int, int]) -> None:
    part = PicturePart(resolution_px=resolution_px, square_too=False)
    assert [cut.bucket for cut in cuts_of(*size, (), part, multiple_px=8)] == [bucket]


def test_a_square_is_cut_out_too_unless_the_picture_is_one() -> None:
    part = PicturePart(resolution_px=128, bucket_step_px=16)
    assert [cut.bucket for cut in cuts_of(320, 180, (), part, multiple_px=8)] == [(160, 96), (128, 128)]
    assert [cut.bucket for cut in cuts_of(320, 320, (), part, multiple_px=8)] == [(128, 128)]


def test_a_square_is_centred_on_the_largest_face_and_stays_inside() -> None:
    part = PicturePart(resolution_px=128, bucket_step_px=16, aspect_buckets=False)
    small, large = Face(10, 10, 10, 10, 0.99), Face(200, 20, 40, 40, 0.7)
    (cut,) = cuts_of(320, 180, [small, large], part, multiple_px=8)
    assert cut == Cut(130, 0, 180, 180, 128, 128)
    (cut,) = cuts_of(320, 180, [small], part, multiple_px=8)
    assert cut == Cut(0, 0, 180, 180, 128, 128)
    (cut,) = cuts_of(320, 180, [], part, multiple_px=8)
    assert cut == Cut(70, 0, 180, 180, 128, 128)


def test_mirrored_cuts_are_the_same_cuts() -> None:
    part = PicturePart(resolution_px=128, bucket_step_px=16, mirror=True)
    cuts = cuts_of(320, 180, (), part, multiple_px=8)
    assert [cut.is_mirrored for cut in cuts] == [False, False, True, True]
    assert [cut.bucket for cut in cuts[:2]] == [cut.bucket for cut in cuts[2:]]


def test_a_step_that_is_more_than_the_resolution_is_refused() -> None:
    with pytest.raises(RecipeError, match="64 is less than one step of 96"):
        cuts_of(320, 180, (), PicturePart(resolution_px=64, bucket_step_px=96), multiple_px=16)
