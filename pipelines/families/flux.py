"""FLUX.1: CLIP and T5 text encoders, a transformer over packed latents, guidance as an input, not a second row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from models.loader import LoadedModel
from models.lora import LoraBank
from pipelines.families.base import Family, step_arguments, timesteps_from
from pipelines.request import GenerationRequest
from pipelines.sample import Inpaint, Order, Sample, Scheduler, TextEmbedding
from pipelines.speed import Compiler

# R rows (here one for each sample), S patches of the picture, L text tokens; a packed latent is [1, S, 4 C].

# What [dev] and [schnell] were trained with; longer prompts are cut by the tokenizer.
MAX_TEXT_TOKENS = 512
MAX_TEXT_TOKENS_DISTILLED = 256
PATCH = 2  # latent pixels a side that one patch packs together


class Flux(Family):
    denoiser_name = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2")

    def __init__(self, loaded: LoadedModel, bank: LoraBank, compiler: Compiler | None = None) -> None:
        super().__init__(loaded, bank, compiler)
        self.takes_guidance = bool(self.pipeline.transformer.config.guidance_embeds)
        self.masks = VaeImageProcessor(
            vae_scale_factor=self.pipeline.vae_scale_factor * PATCH,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )

    def is_guided(self, request: GenerationRequest) -> bool:
        return False  # the scale is an input of the transformer

    def embed(self, texts: Sequence[str | None]) -> list[TextEmbedding]:
        tokens_BLD, pooled_BD, _ = self.pipeline.encode_prompt(
            [text or "" for text in texts],
            None,
            device=self.device,
            max_sequence_length=MAX_TEXT_TOKENS if self.takes_guidance else MAX_TEXT_TOKENS_DISTILLED,
        )
        return [TextEmbedding(*pair) for pair in zip(tokens_BLD, pooled_BD, strict=True)]

    def start(self, order: Order) -> Sample:
        request = order.request
        generator = torch.Generator("cpu").manual_seed(order.seed)
        scheduler = self.scheduler(request.scheduler)
        self._set_timesteps(scheduler, request)
        sample = Sample(
            order=order,
            latents=torch.empty(0),
            scheduler=scheduler,
            timesteps=scheduler.timesteps,
            generator=generator,
            step_arguments=step_arguments(scheduler, generator),
        )
        if order.image is None:
            sample.latents = self._packed(self.noise(order, generator))
            scheduler.set_begin_index(0)
        else:
            self._start_from_picture(sample)
        return sample

    def predict(self, samples: Sequence[Sample], *, is_adapted: bool) -> torch.Tensor:
        # In the precision of the latents before the division, as the pipeline does it.
        timesteps = torch.stack([sample.timestep for sample in samples]).to(self.device, self.dtype)
        scales = torch.tensor([s.order.request.guidance_scale for s in samples], device=self.device)
        texts = [sample.order.prompt for sample in samples]
        tokens_RLD = torch.stack([text.tokens_LD for text in texts])
        rows = {
            "hidden_states": torch.cat([sample.latents for sample in samples]),
            "timestep": timesteps / 1000,
            "guidance": scales if self.takes_guidance else None,
            "pooled_projections": torch.stack([text.pooled_D for text in texts if text.pooled_D is not None]),
            "encoder_hidden_states": tokens_RLD,
        }
        shared = {
            "txt_ids": torch.zeros(tokens_RLD.shape[1], 3, device=self.device, dtype=self.dtype),
            "img_ids": self._patch_positions(samples[0].order.request),
        }
        return self.denoiser(rows, shared, num_rows=len(samples), is_adapted=is_adapted)

    def unpacked(self, latents: torch.Tensor, width_px: int, height_px: int) -> torch.Tensor:
        unpacked: torch.Tensor = self.pipeline._unpack_latents(
            latents, height_px, width_px, self.pipeline.vae_scale_factor
        )
        return unpacked

    def noise_level(self, sample: Sample) -> float:
        """Sigma of the step just made: 1 is noise alone, 0 the picture."""
        return float(sample.scheduler.sigmas[sample.scheduler.step_index - 1])

    def denoised(self, sample: Sample, output: Any, predicted: torch.Tensor) -> torch.Tensor | None:  # noqa: ANN401, ARG002
        # The model predicts the velocity from the picture to the noise, and the latents lie on that line.
        return sample.latents - self.noise_level(sample) * predicted

    def add_noise(
        self, scheduler: Scheduler, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        noised: torch.Tensor = scheduler.scale_noise(latents, timestep, noise)
        return noised

    def _start_from_picture(self, sample: Sample) -> None:
        """Image-to-image and inpainting, each drawing its noise in the order in which the pipelines draw it."""
        order, generator, scheduler = sample.order, sample.generator, sample.scheduler
        request = order.request
        steps = request.num_inference_steps
        first = int(max(steps - min(steps * request.strength, steps), 0))
        sample.timesteps = timesteps_from(scheduler, first, request)
        size = {"height": request.height_px, "width": request.width_px}
        pixels = self.pipeline.image_processor.preprocess(order.image, **size)
        picture = self.encode_picture(pixels, generator)
        noise = self.noise(order, generator)
        sample.latents = self._packed(self.add_noise(scheduler, picture, noise, sample.timesteps[:1]))
        if order.mask is None:
            return
        mask_pixels = self.masks.preprocess(order.mask, **size)
        mask = torch.nn.functional.interpolate(mask_pixels, size=noise.shape[-2:]).to(self.device, self.dtype)
        sample.inpaint = Inpaint(
            mask=self._packed(mask.expand_as(noise)), original=self._packed(picture), noise=self._packed(noise)
        )

    def _set_timesteps(self, scheduler: Scheduler, request: GenerationRequest) -> None:
        """Evenly spaced noise levels, shifted towards noise for larger pictures."""
        steps, config = request.num_inference_steps, scheduler.config
        sigmas = None if config.get("use_flow_sigmas", False) else np.linspace(1.0, 1 / steps, steps)
        shift = calculate_shift(
            len(self._patch_positions(request)),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        given = {"num_inference_steps": steps} if sigmas is None else {"sigmas": sigmas}
        scheduler.set_timesteps(**given, device="cpu", mu=shift)

    def _patch_positions(self, request: GenerationRequest) -> torch.Tensor:
        """[S, 3]: the row and the column of every patch."""
        side_px = self.pipeline.vae_scale_factor * PATCH
        rows, columns = request.height_px // side_px, request.width_px // side_px
        positions: torch.Tensor = self.pipeline._prepare_latent_image_ids(1, rows, columns, self.device, self.dtype)
        return positions

    def _packed(self, latents: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = self.pipeline._pack_latents(latents, *latents.shape)
        return packed
