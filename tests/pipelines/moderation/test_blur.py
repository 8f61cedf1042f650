"""A blurred picture: nothing in it can be recognised, and its file still says where it comes from."""

import io

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from PIL import Image

from models.errors import InputImageError
from pipelines.media import Provenance, encode_image, read_provenance
from pipelines.moderation.blur import blur_picture
from pipelines.request import OutputFormat
from tests.serving.house import a_request

FINE_SPOTS, COARSE_SPOTS = 64, 16  # faces are told from about 16 spots on
FORMATS: list[OutputFormat] = ["png", "jpeg", "webp"]


def made(format: OutputFormat, name: str = "astronaut", **request: object) -> bytes:
    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    wish = a_request(output_format=format, output_compression=90, prompt="ein Haus, 家 ☀", **request)
    return encode_image(picture, Provenance(wish, 7, "Euler", "ab" * 32, created=1_800_000_000))


def detail(data: bytes) -> npt.NDArray[np.float64]:
    """What is finer than COARSE_SPOTS along a side, and not finer than FINE_SPOTS."""
    grey = Image.open(io.BytesIO(data)).convert("F")
    fine = grey.resize((FINE_SPOTS, FINE_SPOTS), Image.Resampling.BOX)
    coarse = grey.resize((COARSE_SPOTS, COARSE_SPOTS), Image.Resampling.BOX)
    return np.asarray(fine, np.float64) - np.asarray(coarse.resize(fine.size, Image.Resampling.BICUBIC), np.float64)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_no_detail_is_left(format: OutputFormat, name: str) -> None:
    data = made(format, name)
    before, after = detail(data), detail(blur_picture(data))
    assert after.std() < 0.1 * before.std()
    assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.3


def test_colours_stay_where_they_are() -> None:
    halves = Image.new("RGB", (400, 200), "red")
    halves.paste((0, 0, 255), (200, 0, 400, 200))
    out = io.BytesIO()
    halves.save(out, "PNG")
    blurred = Image.open(io.BytesIO(blur_picture(out.getvalue())))
    assert blurred.getpixel((20, 100)) == (255, 0, 0)
    assert blurred.getpixel((380, 100)) == (0, 0, 255)


@pytest.mark.parametrize("format", FORMATS)
def test_format_size_and_origin_are_kept(format: OutputFormat) -> None:
    data = made(format)
    blurred = blur_picture(data)
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(blurred)) as after:
        assert (after.format, after.size) == (before.format, before.size)
    origin = read_provenance(blurred)
    assert origin == read_provenance(data)
    assert origin.parameters is not None
    assert origin.darkroom is not None


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (64, 64)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_any_size_and_mode_can_be_blurred(size: tuple[int, int], mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, size, 7 if mode in "LP" else "red").save(out, "PNG")
    assert Image.open(io.BytesIO(blur_picture(out.getvalue()))).size == size


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InputImageError):
        blur_picture(b"no picture")
