"""An image classifier of the hub, or of a folder in its format, with transformers: on a GPU where there is one."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import httpx2  # the client that huggingface_hub uses, and whose errors it lets through
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from configs.settings import ModerationSettings
from pipelines.moderation.classifier import ClassifierError, classifier_name
from pipelines.moderation.scores import SEXUAL, Scores


class HubClassifier:
    """`sexual` is the probability of all labels together that mean it."""

    def __init__(
        self, name: str, model: PreTrainedModel, processor: BaseImageProcessor, unsafe_labels: Collection[str]
    ) -> None:
        self.name = name
        self._model = model
        self._processor = processor
        self._unsafe_ids = unsafe_ids(model.config.id2label, unsafe_labels, where=name)

    def shrink(self, picture: Image.Image) -> Image.Image:
        """Only where the model takes whole pictures squeezed to one size; others crop in ways of their own."""
        size = dict(self._processor.size or {})
        if set(size) != {"height", "width"} or not self._processor.do_resize:
            return picture
        return picture.convert("RGB").resize((size["width"], size["height"]), self._processor.resample)

    @torch.inference_mode()
    def look(self, pictures: Sequence[Image.Image]) -> list[Scores]:
        batch = self._processor(images=[picture.convert("RGB") for picture in pictures], return_tensors="pt")
        pixels_BCHW = batch["pixel_values"].to(self._model.device, self._model.dtype)
        # Half precision is for the layers: its probabilities come in steps of a hundredth.
        shares_BL = self._model(pixel_values=pixels_BCHW).logits.float().softmax(-1)
        unsafe_B = shares_BL[:, self._unsafe_ids].sum(-1).clamp(0, 1)
        if not bool(unsafe_B.isfinite().all()):
            raise ArithmeticError(f"{self.name} gives no number for a picture")  # which no threshold would ever stop
        return [{SEXUAL: score} for score in unsafe_B.tolist()]


def load_hub_classifier(settings: ModerationSettings) -> HubClassifier:
    """Raises ClassifierError: not there, not safetensors, no classifier, or no label that is known."""
    assert settings.model is not None  # the settings see to it
    name = classifier_name(settings)
    # Never code from a folder, never a pickle.
    source: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": False}
    device = _pick_device(settings)
    torch.set_num_threads(settings.num_threads or len(os.sched_getaffinity(0)))
    try:
        model, report = AutoModelForImageClassification.from_pretrained(
            settings.model, **source, use_safetensors=True, dtype=_pick_dtype(device), output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(settings.model, **source, backend="pil")
    except (OSError, ValueError, RuntimeError, SafetensorError, httpx2.HTTPError) as error:
        raise ClassifierError(f"The classifier {name} cannot be loaded: {error}") from error
    if missing := sorted(report["missing_keys"]):
        # They would be drawn at random, and so would its scores.
        raise ClassifierError(f"{name} is no trained image classifier: it has no weights for {missing[0]}.")
    return HubClassifier(name, model.to(device).eval(), processor, settings.unsafe_labels)


def unsafe_ids(labels: Mapping[int, str], unsafe: Collection[str], *, where: str) -> list[int]:
    """Which of a model's labels mean `sexual`."""
    known = {label.strip().casefold() for label in unsafe}
    ids = [int(index) for index, label in labels.items() if label.strip().casefold() in known]
    if not ids or len(ids) == len(labels):
        raise ClassifierError(
            f"{where} tells apart {', '.join(sorted(labels.values()))}; moderation.unsafe_labels must name some of "
            f"these and not all, and names {', '.join(sorted(unsafe))}."
        )
    return ids


def _pick_device(settings: ModerationSettings) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ClassifierError("moderation.device is cuda, but PyTorch sees no CUDA device; set it to auto or cpu.")
    return torch.device("cuda" if has_gpu and settings.device != "cpu" else "cpu")


def _pick_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
