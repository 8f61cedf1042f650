"""Which parts of a picture are learned from, and at which sizes: pure, knows no pixels.

A bucket is a size that many pictures share, so that they can be learned in one batch: sides that are multiples of a
step, an area of at most resolution squared, and a shape near the picture's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.request import Face
from training.recipe import PicturePart, RecipeError

LEAST_SIDE_PX = 64  # smaller pictures are enlarged to it, or to one step where that is more


@dataclass(frozen=True, slots=True)
class Cut:
    """A rectangle of a picture, and the size it is learned at."""

    left_px: int
    top_px: int
    width_px: int
    height_px: int
    target_width_px: int
    target_height_px: int
    is_mirrored: bool = False

    @property
    def bucket(self) -> tuple[int, int]:
        """Width and height."""
        return self.target_width_px, self.target_height_px


def cuts_of(
    width_px: int, height_px: int, faces: Sequence[Face], part: PicturePart, *, multiple_px: int
) -> tuple[Cut, ...]:
    """One in the picture's own shape, a square one, and both mirrored, as the recipe asks; RecipeError if none can be.

    None is enlarged, unless the picture is smaller than the least side.
    """
    resolution_px = part.resolution_px
    if resolution_px is None:
        raise RecipeError("pictures.resolution_px: it is to be known by now.")
    step_px = math.lcm(part.bucket_step_px, multiple_px)
    if step_px > resolution_px:
        raise RecipeError(f"pictures.resolution_px: {resolution_px} is less than one step of {step_px}.")
    sides = _Sides(step_px, resolution_px)
    buckets = [sides.square(width_px, height_px)]
    if part.aspect_buckets:
        own = sides.like(width_px, height_px)
        buckets = [own, *buckets] if part.square_too and own[0] != own[1] else [own]
    cuts = tuple(_cut(width_px, height_px, bucket, _middle(width_px, height_px, faces)) for bucket in buckets)
    return cuts + tuple(replace(cut, is_mirrored=True) for cut in cuts) if part.mirror else cuts


@dataclass(frozen=True, slots=True)
class _Sides:
    """The sides that buckets may have."""

    step_px: int
    resolution_px: int

    @property
    def least_px(self) -> int:
        return self.step_px * max(1, LEAST_SIDE_PX // self.step_px)

    def square(self, width_px: int, height_px: int) -> tuple[int, int]:
        side_px = self._longest(min(width_px, height_px, self.resolution_px))
        return side_px, side_px

    def like(self, width_px: int, height_px: int) -> tuple[int, int]:
        """The one that the whole picture would fit into largest; of several, the one nearest to its shape."""
        area_px = self.resolution_px**2
        widest_px = self._longest(min(width_px, area_px // self.least_px))
        found = []
        for target_px in range(self.least_px, widest_px + 1, self.step_px):
            whole_px = math.ceil(target_px * height_px / width_px / self.step_px) * self.step_px
            found.append((target_px, min(self._longest(whole_px), self._longest(min(height_px, area_px // target_px)))))
        # Those after the first largest one are only wider.
        return max(found, key=lambda size: min(size[0] / width_px, size[1] / height_px))

    def _longest(self, limit_px: int) -> int:
        return max(self.least_px, limit_px // self.step_px * self.step_px)


def _middle(width_px: int, height_px: int, faces: Sequence[Face]) -> tuple[float, float]:
    """What a cut is centred on: the largest face, where there is one."""
    if not faces:
        return width_px / 2, height_px / 2
    face = max(faces, key=lambda face: (face.width * face.height, face.score))
    return face.x + face.width / 2, face.y + face.height / 2


def _cut(width_px: int, height_px: int, bucket: tuple[int, int], middle: tuple[float, float]) -> Cut:
    """The largest rectangle of a bucket's shape, as near to the middle as the picture lets it be."""
    target_width_px, target_height_px = bucket
    if width_px * target_height_px >= height_px * target_width_px:
        cut_width_px, cut_height_px = max(1, height_px * target_width_px // target_height_px), height_px
    else:
        cut_width_px, cut_height_px = width_px, max(1, width_px * target_height_px // target_width_px)
    left_px = min(max(round(middle[0] - cut_width_px / 2), 0), width_px - cut_width_px)
    top_px = min(max(round(middle[1] - cut_height_px / 2), 0), height_px - cut_height_px)
    return Cut(left_px, top_px, cut_width_px, cut_height_px, target_width_px, target_height_px)
