"""What a caller wants, checked against the model, with every open choice resolved. Pure; knows no HTTP."""

import math
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.catalog import get_model
from models.spec import ModelSpec
from pipelines.request import GenerationRequest, LoraChoice, OutputFormat, num_run_steps
from pipelines.schedulers import SCHEDULERS
from serving.adapters.adapter import Adapter
from serving.adapters.store import adapter_not_found
from serving.errors import BadInput, NotFound
from serving.jobs.inputs import EditWish, fit_size
from serving.jobs.job import Priority, Strictness

MAX_IMAGES = 10
DEFAULT_STRENGTH = 0.8
MAX_LORAS = 8
MAX_SEED = 2**63 - 1
RANDOM_SEED_BITS = 32  # short enough to read, type and pass through any JSON reader
SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")
MAX_USER_CHARS = 256
MAX_METADATA_ITEMS, MAX_METADATA_KEY_CHARS, MAX_METADATA_VALUE_CHARS = 16, 64, 512  # OpenAI's own limits
METADATA_KEY = re.compile(r"[A-Za-z0-9_\-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What any job may be asked for with: who goes first, how long it may take, who is told."""

    priority: Priority = "normal"
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    expires_in_s: float | None = None
    webhook_url: str | None = None
    moderation: Strictness = "auto"


@dataclass(frozen=True, slots=True)
class ImageWish(Wish):
    """An image request as the caller put it; None leaves the choice to the model's defaults."""

    prompt: str
    model: str | None = None
    n: int = 1
    size: str = "auto"
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    scheduler: str | None = None
    loras: tuple[LoraChoice, ...] = ()
    output_format: OutputFormat = "png"
    output_compression: int = 100
    edit: EditWish | None = None  # start from a picture
    num_partial_images: int = 0


def resolve_image(
    wish: ImageWish,
    catalog: Mapping[str, ModelSpec],
    *,
    default_model: str,
    max_prompt_chars: int,
    adapters: Mapping[str, Adapter],
) -> GenerationRequest:
    """A request with nothing left open, or BadInput/NotFound naming the field and what it may be.

    `adapters` are those that exist of the ones that the wish names, as it names them.
    """
    spec = get_model(catalog, default_model if wish.model is None else wish.model)
    if spec.kind != "image":
        raise NotFound(f"The model {spec.id!r} makes {spec.kind}, not images.", param="model", code="model_not_found")
    check_text("prompt", wish.prompt, max_chars=max_prompt_chars)
    if not wish.prompt.strip():
        raise BadInput("prompt must not be empty.", param="prompt")
    width_px, height_px = _size(wish, spec)
    num_images = whole("n", wish.n, 1, MAX_IMAGES)
    seed = secrets.randbits(RANDOM_SEED_BITS) if wish.seed is None else wish.seed
    # Image i uses seed + i, and that must be a seed too.
    whole("seed", seed, 0, MAX_SEED - num_images + 1)
    check_extras(wish)
    steps = _steps(wish, spec)
    return GenerationRequest(
        model_id=spec.id,
        prompt=wish.prompt,
        negative_prompt=_negative_prompt(wish, spec, max_chars=max_prompt_chars),
        width_px=width_px,
        height_px=height_px,
        num_images=num_images,
        seed=seed,
        num_inference_steps=steps,
        guidance_scale=_guidance(wish, spec),
        scheduler=_scheduler(wish, spec),
        loras=_loras(wish, spec, adapters),
        strength=_strength(wish.edit, steps),
        num_partial_images=wish.num_partial_images,
        output_format=wish.output_format,
        output_compression=whole("output_compression", wish.output_compression, 0, 100),
    )


def check_text(param: str, text: str, *, max_chars: int) -> None:
    """Refuses text that is too long, or holds control characters or half surrogate pairs."""
    if len(text) > max_chars:
        raise BadInput(f"{param} has {len(text)} characters; at most {max_chars} are allowed.", param=param)
    for character in text:
        # Newlines and tabs are part of ordinary prompts; a lone surrogate cannot be stored as UTF-8.
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\r\t":
            raise BadInput(f"{param} holds the control character U+{ord(character):04X}.", param=param)


def check_extras(wish: Wish) -> None:
    """Refuses a user and metadata that could not be stored as they are."""
    if wish.user is not None:
        check_text("user", wish.user, max_chars=MAX_USER_CHARS)
    if len(wish.metadata) > MAX_METADATA_ITEMS:
        raise BadInput(f"metadata may hold {MAX_METADATA_ITEMS} items at most.", param="metadata")
    for key, value in wish.metadata.items():
        if not METADATA_KEY.fullmatch(key):
            raise BadInput(
                f"metadata keys must be 1 to {MAX_METADATA_KEY_CHARS} of letters, digits, _ and -.", param="metadata"
            )
        check_text("metadata", value, max_chars=MAX_METADATA_VALUE_CHARS)


def whole(param: str, value: int, lowest: int, highest: int) -> int:
    """The value, where it is in that range."""
    if not lowest <= value <= highest:
        raise BadInput(f"{param} must be a whole number from {lowest} to {highest}; it is {value}.", param=param)
    return value


def _size(wish: ImageWish, spec: ModelSpec) -> tuple[int, int]:
    size, limits = wish.size, spec.limits
    if size == "auto":
        if wish.edit is not None:
            return fit_size(wish.edit.image.width_px, wish.edit.image.height_px, limits)
        return spec.defaults.width_px, spec.defaults.height_px
    allowed = (
        f"{spec.id} allows 'auto' or WIDTHxHEIGHT with sides from {limits.min_side_px} to {limits.max_side_px} px in "
        f"multiples of {limits.side_multiple_px}, at most {limits.max_pixels} px in all; "
        f"for example {', '.join(spec.sizes)}"
    )
    match = SIZE.fullmatch(size)
    if match is None:
        raise BadInput(f"size {size[:40]!r} is not a size: {allowed}.", param="size")
    width_px, height_px = int(match[1]), int(match[2])
    for side_px in (width_px, height_px):
        if not limits.min_side_px <= side_px <= limits.max_side_px or side_px % limits.side_multiple_px:
            raise BadInput(f"size {size!r} cannot be made: {allowed}.", param="size")
    if width_px * height_px > limits.max_pixels:
        raise BadInput(f"size {size!r} has too many pixels: {allowed}.", param="size")
    return width_px, height_px


def _steps(wish: ImageWish, spec: ModelSpec) -> int:
    if wish.num_inference_steps is None:
        return spec.defaults.num_inference_steps
    return whole("num_inference_steps", wish.num_inference_steps, 1, spec.limits.max_steps)


def _strength(edit: EditWish | None, steps: int) -> float:
    """The share of the steps that is run; a picture to start from stays visible unless a mask says where not."""
    if edit is None:
        return 1.0
    strength = edit.strength
    if strength is None:
        strength = DEFAULT_STRENGTH if edit.mask is None else 1.0
    if not math.isfinite(strength) or not 0 < strength <= 1:
        raise BadInput("strength must be a number above 0 and at most 1.", param="strength")
    if num_run_steps(steps, strength) < 1:
        raise BadInput(
            f"strength {strength:g} of {steps} steps leaves no step to run: raise strength or num_inference_steps.",
            param="strength",
        )
    return float(strength)


def _guidance(wish: ImageWish, spec: ModelSpec) -> float:
    scale = wish.guidance_scale
    if scale is None:
        return spec.defaults.guidance_scale
    highest = spec.limits.max_guidance_scale
    if not math.isfinite(scale) or not 0 <= scale <= highest:
        raise BadInput(f"guidance_scale must be a number from 0 to {highest:g}.", param="guidance_scale")
    if not spec.limits.has_guidance and scale != spec.defaults.guidance_scale:
        raise BadInput(f"{spec.id} works without guidance; leave guidance_scale out.", param="guidance_scale")
    return float(scale)


def _negative_prompt(wish: ImageWish, spec: ModelSpec, *, max_chars: int) -> str:
    if not wish.negative_prompt:
        return spec.defaults.negative_prompt
    check_text("negative_prompt", wish.negative_prompt, max_chars=max_chars)
    if not spec.limits.has_negative_prompt:
        raise BadInput(f"{spec.id} takes no negative_prompt.", param="negative_prompt")
    return wish.negative_prompt


def _scheduler(wish: ImageWish, spec: ModelSpec) -> str | None:
    if wish.scheduler is None:
        return spec.defaults.scheduler
    known = SCHEDULERS[spec.family]
    if wish.scheduler not in known:
        choices = ", ".join(known)
        raise BadInput(f"scheduler {wish.scheduler[:40]!r} is unknown; {spec.id} has: {choices}.", param="scheduler")
    return wish.scheduler


def _loras(wish: ImageWish, spec: ModelSpec, adapters: Mapping[str, Adapter]) -> tuple[LoraChoice, ...]:
    """Pinned to a version and its file: an import that comes later does not change what was asked for."""
    if len(wish.loras) > MAX_LORAS:
        raise BadInput(f"loras may name {MAX_LORAS} adapters at most; there are {len(wish.loras)}.", param="loras")
    choices: dict[str, LoraChoice] = {}
    for lora in wish.loras:
        adapter = adapters.get(lora.name)
        if adapter is None:
            raise adapter_not_found(lora.name, param="loras")
        if adapter.manifest.base_model != spec.id:
            raise BadInput(
                f"The adapter {adapter.reference} was made for {adapter.manifest.base_model}, not for {spec.id}.",
                param="loras",
                code="wrong_base_model",
            )
        if adapter.reference in choices:
            raise BadInput(f"loras names {adapter.reference} twice.", param="loras")
        choices[adapter.reference] = LoraChoice(adapter.reference, lora.scale, adapter.file)
    return tuple(choices.values())
