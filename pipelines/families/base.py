"""Family: one model family's way from texts to pixels in four verbs: encode, start, step, decode.

Knows no files, no jobs and no threads. Every verb gives what the family's diffusers pipeline gives for each request
alone; a family is right when its parity test says so (tests/pipelines/test_promise.py).
"""

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray

from models.loader import LoadedModel
from models.lora import LoraBank, RowLoras
from models.spec import Family as FamilyName
from pipelines.device import wait_for
from pipelines.request import GenerationRequest
from pipelines.sample import Order, Sample, Scheduler, TextEmbedding
from pipelines.schedulers import get_scheduler, sampler_name
from pipelines.speed import Compiler, Denoiser

# R rows of a forward pass (two for a guided sample), B pictures, H height, W width, C colours (RGB), 0–1
PixelsBHWC = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of one step of a batch."""

    forward_s: float  # inside the denoiser
    failures: Mapping[Sample, Exception]  # of those whose own scheduler step went wrong


class Family(ABC):
    """Runs samples of one family on one loaded model.

    encode() and start() are called by one thread, step() by another and decode() by a third, at the same time.
    """

    denoiser_name: ClassVar[str]  # the component of the pipeline that step() runs
    text_encoders: ClassVar[tuple[str, ...]]  # those that encode() runs

    def __init__(self, loaded: LoadedModel, bank: LoraBank, compiler: Compiler | None = None) -> None:
        self.spec = loaded.spec
        self.pipeline = loaded.pipeline
        self.device = loaded.device
        self.dtype = loaded.dtype
        self._bank = bank
        self.denoiser = Denoiser(getattr(loaded.pipeline, self.denoiser_name), compiler)
        # Every sample gets a copy: schedulers keep state, and a request may ask for another one.
        self._own_scheduler = loaded.pipeline.scheduler

    # The four verbs.

    def encode(self, texts: Sequence[str | None], loras: Sequence[RowLoras]) -> list[TextEmbedding]:
        """One embedding for each text, in one pass; None is "nothing said", which need not equal an empty text."""
        with self._adapted(self.text_encoders, loras):
            return self.embed(texts)

    @abstractmethod
    def start(self, order: Order) -> Sample:
        """A sample before its first step: noise, or the picture to start from under noise. ValueError says why not."""

    def step(self, samples: Sequence[Sample]) -> StepOutcome:
        """One forward pass for all rows, then each sample's own scheduler step; the samples have one size.

        When the forward pass raises, no sample has changed and any part of the batch may be tried again. What goes
        wrong after it is the sample's own: it comes back here, and the others have made their step.
        """
        began_s = time.perf_counter()
        loras = [sample.order.loras for sample in samples for _ in range(sample.num_rows)]
        with self._bank.rows(self.denoiser_name, loras) as is_adapted:
            predicted_rows = self.predict(samples, is_adapted=is_adapted)
        forward_s = wait_for(self.device) - began_s
        failures: dict[Sample, Exception] = {}
        first_row = 0
        for sample in samples:
            rows = predicted_rows[first_row : first_row + sample.num_rows]
            first_row += sample.num_rows
            try:
                self._advance(sample, self.guided(rows, sample.order.request.guidance_scale))
            except Exception as error:  # noqa: BLE001 - whatever a scheduler raises, it is this sample's trouble alone
                failures[sample] = error
        # What a sample gives up now may be given to another thread's stream: nothing may still be at work on it.
        wait_for(self.device)
        return StepOutcome(forward_s, failures)

    def decode(self, latents: Sequence[torch.Tensor], *, width_px: int, height_px: int, tiled: bool) -> PixelsBHWC:
        """The pictures of one size that samples' latents stand for, in one pass."""
        return self.decode_latents(self.unpacked(torch.cat(list(latents)), width_px, height_px), tiled=tiled)

    # What a family is made of.

    @abstractmethod
    def embed(self, texts: Sequence[str | None]) -> list[TextEmbedding]:
        """What encode() does once the adapters are in place."""

    @abstractmethod
    def predict(self, samples: Sequence[Sample], *, is_adapted: bool) -> torch.Tensor:
        """The denoiser's output for every row, in the order of sample.texts. Changes no sample."""

    def unpacked(self, latents: torch.Tensor, width_px: int, height_px: int) -> torch.Tensor:  # noqa: ARG002
        """Samples' latents as [B, C, H, W]; most families keep them so."""
        return latents

    # What all of them share.

    def is_guided(self, request: GenerationRequest) -> bool:
        """Whether a sample of this request takes a second row, for what its negative prompt (or nothing) would give."""
        return self.spec.limits.has_guidance and request.guidance_scale > 1

    def guided(self, rows: torch.Tensor, scale: float) -> torch.Tensor:
        """Classifier-free guidance, Ho and Salimans 2022 (arXiv 2207.12598), eq. 6; one row is no guidance."""
        if len(rows) == 1:
            return rows
        without, within = rows.chunk(2)
        return without + scale * (within - without)

    def negative_text(self, request: GenerationRequest) -> str | None:
        return request.negative_prompt or None if self.spec.limits.has_negative_prompt else None

    def scheduler(self, name: str | None) -> Scheduler:
        """A fresh scheduler, by name or as the folder has it; ValueError lists the names of this family."""
        return fresh_scheduler(self._own_scheduler, self.spec.family, name)

    def new_sample(self, order: Order, scheduler: Scheduler) -> Sample:
        """A sample with a generator of its own and this scheduler, whose timesteps are set; its latents are to come."""
        generator = torch.Generator("cpu").manual_seed(order.seed)
        return Sample(
            order=order,
            latents=torch.empty(0),
            scheduler=scheduler,
            timesteps=scheduler.timesteps,
            generator=generator,
            step_arguments=_step_arguments(scheduler, generator),
        )

    def sampler(self, name: str | None) -> str:
        """What A1111 calls the scheduler that this name stands for."""
        if name is not None:
            return get_scheduler(self.spec.family, name).sampler
        own = self._own_scheduler
        return sampler_name(type(own).__name__, has_karras_sigmas=bool(own.config.get("use_karras_sigmas", False)))

    def denoised(self, sample: Sample, output: Any, predicted: torch.Tensor) -> torch.Tensor | None:  # noqa: ANN401, ARG002
        """What a scheduler's step took for the finished picture; None where it does not say."""
        if (clean := getattr(output, "pred_original_sample", None)) is not None:
            return clean  # type: ignore[no-any-return]
        # The multistep ones convert every prediction to it and keep the last few.
        kept = getattr(sample.scheduler, "model_outputs", None)
        return kept[-1] if kept else None

    @contextmanager
    def _adapted(self, components: Sequence[str], loras: Sequence[RowLoras]) -> Generator[None, None, None]:
        with ExitStack() as stack:
            for component in components:
                stack.enter_context(self._bank.rows(component, loras))
            yield

    def _advance(self, sample: Sample, predicted: torch.Tensor) -> None:
        timestep = sample.timestep
        output = sample.scheduler.step(predicted, timestep, sample.latents, **sample.step_arguments)
        clean = self.denoised(sample, output, predicted)
        latents = output.prev_sample
        if (inpaint := sample.inpaint) is not None:
            original = inpaint.original
            if sample.step + 1 < sample.num_steps:
                next_timestep = sample.timesteps[sample.step + 1 : sample.step + 2]
                original = self.add_noise(sample.scheduler, original, inpaint.noise, next_timestep)
            latents = (1 - inpaint.mask) * original + inpaint.mask * latents
        sample.latents, sample.denoised = latents, clean
        sample.step += 1

    def add_noise(
        self,
        scheduler: Scheduler,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timestep: torch.Tensor,
    ) -> torch.Tensor:
        """Clean latents as they would be at `timestep`, shape [1]."""
        return scheduler.add_noise(latents, noise, timestep)  # type: ignore[no-any-return]

    def noise(self, order: Order, generator: torch.Generator, dtype: torch.dtype | None = None) -> torch.Tensor:
        """[1, C, H, W], drawn on the CPU whatever the device: the same seed is the same noise on every machine."""
        scale = self.pipeline.vae_scale_factor
        request = order.request
        shape = (1, self.latent_channels, request.height_px // scale, request.width_px // scale)
        return randn_tensor(shape, generator=generator, device=self.device, dtype=dtype or self.dtype)  # type: ignore[no-any-return]

    def encode_picture(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Latents [1, C, H, W] of a picture [1, 3, H px, W px], -1 to 1; one draw from what the encoder gives."""
        latents = self.encoded(pixels.to(self.device, self.pipeline.vae.dtype), generator)
        return self.scaled(latents).to(self.dtype)

    def decode_latents(self, latents: torch.Tensor, *, tiled: bool) -> PixelsBHWC:
        """The inverse; in overlapping tiles where the whole would not fit."""
        pixels = self.decoded(self.unscaled(latents).to(self.pipeline.vae.dtype), tiled=tiled)
        # As the pipelines do it, half precision included.
        images: PixelsBHWC = self.pipeline.image_processor.postprocess(pixels, output_type="np")
        return images

    @property
    def latent_channels(self) -> int:
        return int(self.pipeline.vae.config.latent_channels)

    def encoded(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """What the autoencoder itself makes of a picture."""
        latents: torch.Tensor = self.pipeline.vae.encode(pixels).latent_dist.sample(generator)
        return latents

    def decoded(self, latents: torch.Tensor, *, tiled: bool) -> torch.Tensor:
        """What the autoencoder itself makes of latents [B, C, H, W]."""
        vae = self.pipeline.vae
        pixels: torch.Tensor = (vae.tiled_decode(latents) if tiled else vae.decode(latents)).sample
        return pixels

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """From what the autoencoder gives to what the denoiser was trained on."""
        mean, spread, factor = self._statistics(latents)
        return (latents - mean) * factor / spread

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of scaled()."""
        mean, spread, factor = self._statistics(latents)
        return latents * spread / factor + mean

    def _statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float, float]:
        """Mean and spread of the autoencoder's latents, [1, C, 1, 1] where it names them by channel, and its factor."""
        config = self.pipeline.vae.config
        factor = float(config.get("scaling_factor") or 1.0)
        means, spreads = config.get("latents_mean"), config.get("latents_std")
        if means is None or spreads is None:
            return float(config.get("shift_factor") or 0.0), 1.0, factor
        mean, spread = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (means, spreads))
        return mean, spread, factor


def fresh_scheduler(own: Scheduler, family: FamilyName, name: str | None) -> Scheduler:
    """One that keeps no state of others: by name, or as `own` is; ValueError lists the names of the family."""
    if name is None:
        return type(own).from_config(own.config)
    recipe = get_scheduler(family, name)
    return getattr(diffusers, recipe.class_name).from_config(own.config, **recipe.overrides)


def _step_arguments(scheduler: Scheduler, generator: torch.Generator) -> dict[str, Any]:
    """What this scheduler's step() takes beside the usual three; the pipelines find it out in the same way."""
    accepted = inspect.signature(scheduler.step).parameters
    offered: dict[str, Any] = {"eta": 0.0, "generator": generator}
    return {name: value for name, value in offered.items() if name in accepted}


def timesteps_from(scheduler: Scheduler, first: int, request: GenerationRequest) -> torch.Tensor:
    """The scheduler's timesteps from index `first` on, and the scheduler told so."""
    timesteps: torch.Tensor = scheduler.timesteps[first:]
    if not len(timesteps):
        raise ValueError(
            f"strength {request.strength:g} of {request.num_inference_steps} steps leaves none to be run; raise either"
        )
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return timesteps
