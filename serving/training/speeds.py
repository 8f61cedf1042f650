"""What trainings take on this machine: measured here, corrected by every training, kept on disk. Knows no torch."""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel as Model
from pydantic import ConfigDict, NonNegativeFloat, PositiveFloat, ValidationError

from serving.telemetry import get_logger
from training.orders import BaseModel, Measured
from training.recipe import Recipe

log = get_logger("training")

FILE = "training-speeds.json"  # in the state folder
MAX_ENTRIES = 256
# Until the first video, and the first pictures, have been through here. Right for small ones on two cores.
FIRST_FRAMES_S = 0.3  # for one second of video
FIRST_PREPARE_S = 0.1  # for one picture
SMOOTHING = 0.3  # weight of the newest in the running means


class _Saved(Model):
    """The file on disk; the entries used last stand last."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    trainings: dict[str, Measured] = {}
    frames_s: PositiveFloat = FIRST_FRAMES_S
    prepare_s: NonNegativeFloat = FIRST_PREPARE_S


class Speeds:
    """The figures of one machine. Trainers that share its state folder may write at once; then one of them is lost."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE

    @property
    def frames_s(self) -> float:
        """For the stills of one second of video."""
        return self._read().frames_s

    @property
    def prepare_s(self) -> float:
        """For filtering and captioning one picture."""
        return self._read().prepare_s

    def get(self, key: str) -> Measured | None:
        """What a training takes whose key() this is."""
        return self._read().trainings.get(key)

    def note(self, key: str, measured: Measured) -> None:
        """Takes the place of what was known."""
        saved = self._read()
        others = [(name, known) for name, known in saved.trainings.items() if name != key]
        self._write(saved.model_copy(update={"trainings": dict([*others, (key, measured)][-MAX_ENTRIES:])}))

    def note_frames(self, *, took_s: float, duration_s: float) -> None:
        """Stills were taken of so much video."""
        saved = self._read()
        frames_s = saved.frames_s + SMOOTHING * (max(1e-3, took_s / duration_s) - saved.frames_s)
        self._write(saved.model_copy(update={"frames_s": frames_s}))

    def note_prepared(self, *, took_s: float, num_pictures: int) -> None:
        """So many pictures were filtered and captioned."""
        saved = self._read()
        prepare_s = saved.prepare_s + SMOOTHING * (took_s / num_pictures - saved.prepare_s)
        self._write(saved.model_copy(update={"prepare_s": prepare_s}))

    def _read(self) -> _Saved:
        try:
            return _Saved.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return _Saved()
        except (OSError, ValidationError) as error:
            log.warning("speeds not read; they are measured anew", path=str(self._path), reason=str(error))
            return _Saved()

    def _write(self, saved: _Saved) -> None:
        """Whole or not at all."""
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        unfinished.write_text(saved.model_dump_json(indent=1), "utf-8")
        unfinished.replace(self._path)


def key(recipe: Recipe, base: BaseModel, *, num_threads: int) -> str:
    """Of all that decides what a picture, a step and the end of a training take, and how much memory."""
    validation, samples = recipe.validation, recipe.samples
    parts: dict[str, Any] = {
        "model": base.spec["id"],
        "device": base.device,
        "threads": num_threads,
        "pictures": recipe.pictures.model_dump(mode="json"),
        "lora": recipe.lora.model_dump(mode="json"),
        "optimizer": recipe.optimizer.name,
        "loop": recipe.loop.model_dump(mode="json", exclude={"steps"}),
        "prior": recipe.loss.num_prior,
        "end": [validation.max_held_out, validation.num_draws, samples.num_shown, samples.num_compared],
    }
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))
