"""A captioner of the hub's format, from a folder here: BLIP and Florence-2, as transformers has them itself.

Greedy, so that the same picture gives the same words. Never runs code from a folder, never opens a pickle.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoProcessor,
    BlipForConditionalGeneration,
    Florence2ForConditionalGeneration,
)

from pipelines.moderation.opening import open_to_look
from pipelines.work import Tell, WorkRefused
from training.prepare import prepare

MAX_NEW_TOKENS = 64  # text encoders read 77 of theirs


@dataclass(frozen=True, slots=True)
class Kind:
    """How one family of captioners is loaded and asked."""

    model: Any
    prompt: str | None


KINDS: Mapping[str, Kind] = {
    "blip": Kind(BlipForConditionalGeneration, None),
    "florence2": Kind(Florence2ForConditionalGeneration, "<DETAILED_CAPTION>"),
}


def prepare_with_captioner(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """As training.prepare does it, with a captioner that looks at the pictures."""
    return prepare(arguments, tell, open_captioner=load_captioner)


def load_captioner(folder: Path, num_threads: int = 0) -> Callable[[Path], str]:
    """What says of a picture what it shows. Raises WorkRefused where the folder holds no captioner that is known."""
    torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = _kind(AutoConfig.from_pretrained(folder, **source).model_type)
        model, report = kind.model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoProcessor.from_pretrained(folder, **source)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WorkRefused("no_captioner", f"The captioner cannot be loaded: {error}") from error
    if missing := sorted(report["missing_keys"]):
        # They would be drawn at random, and so would its words.
        raise WorkRefused("no_captioner", f"The captioner has no weights for {missing[0]}.")
    return _Captioner(model.to(device).eval(), processor, kind.prompt, device)


def _kind(model_type: str) -> Kind:
    if model_type not in KINDS:
        raise ValueError(f"it is of the kind {model_type!r}; known are {', '.join(KINDS)}")
    return KINDS[model_type]


class _Captioner:
    def __init__(self, model: Any, processor: Any, prompt: str | None, device: torch.device) -> None:  # noqa: ANN401
        self._model = model
        self._processor = processor
        self._prompt = prompt
        self._device = device

    @torch.inference_mode()
    def __call__(self, path: Path) -> str:
        texts = {} if self._prompt is None else {"text": self._prompt}
        asked = self._processor(images=open_to_look(path.read_bytes()), return_tensors="pt", **texts).to(self._device)
        ids_BL = self._model.generate(**asked, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, num_beams=1)
        return str(self._processor.batch_decode(ids_BL, skip_special_tokens=True)[0])
