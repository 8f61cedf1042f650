"""What the flow-matching families share: a transformer that predicts the velocity from a picture to its noise.

Latents lie on the straight line between the two, Lipman et al. 2022 (arXiv 2210.02747), section 4.1.
"""

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from numpy.typing import NDArray

from models.loader import LoadedModel
from models.lora import LoraBank
from pipelines.families.base import Family, timesteps_from
from pipelines.request import GenerationRequest
from pipelines.sample import Inpaint, Order, Sample, Scheduler
from pipelines.speed import Compiler

PATCH = 2  # latent pixels a side that one token of the transformer stands for, in every family so far


class FlowFamily(Family):
    """Noise or a picture to start from; `embed` and `predict` are the family's own."""

    denoiser_name = "transformer"

    def __init__(self, loaded: LoadedModel, bank: LoraBank, compiler: Compiler | None = None) -> None:
        super().__init__(loaded, bank, compiler)
        self.side_px = int(self.pipeline.vae_scale_factor) * PATCH  # of what one token stands for
        self.masks = VaeImageProcessor(
            vae_scale_factor=self.side_px, do_normalize=False, do_binarize=True, do_convert_grayscale=True
        )

    def start(self, order: Order) -> Sample:
        scheduler = self.scheduler(order.request.scheduler)
        self._set_timesteps(scheduler, order.request)
        sample = self.new_sample(order, scheduler)
        if order.image is None:
            sample.latents = self.packed(self.noise(order, sample.generator))
            scheduler.set_begin_index(0)
        else:
            self._start_from_picture(sample)
        return sample

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [1, C, H, W] as the transformer takes them: the inverse of unpacked()."""
        return latents

    def noise_levels(self, scheduler: Scheduler, num_steps: int) -> NDArray[np.float64] | None:  # noqa: ARG002
        """Those to begin each step from, before they are shifted; None leaves them to the scheduler."""
        return np.linspace(1.0, 1 / num_steps, num_steps)

    def rows_and_columns(self, request: GenerationRequest) -> tuple[int, int]:
        """Of the tokens that the picture is made of."""
        return request.height_px // self.side_px, request.width_px // self.side_px

    def noise_level(self, sample: Sample) -> float:
        """Sigma of the step just made: 1 is noise alone, 0 the picture."""
        return float(sample.scheduler.sigmas[sample.scheduler.step_index - 1])

    def denoised(self, sample: Sample, output: object, predicted: torch.Tensor) -> torch.Tensor | None:  # noqa: ARG002
        return sample.latents - self.noise_level(sample) * predicted

    def add_noise(
        self, scheduler: Scheduler, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        noised: torch.Tensor = scheduler.scale_noise(latents, timestep, noise)
        return noised

    def _set_timesteps(self, scheduler: Scheduler, request: GenerationRequest) -> None:
        """The noise levels, shifted towards noise for larger pictures where the scheduler's config asks for it."""
        config, (rows, columns) = scheduler.config, self.rows_and_columns(request)
        shift = calculate_shift(
            rows * columns,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        levels = self.noise_levels(scheduler, request.num_inference_steps)
        given = {"num_inference_steps": request.num_inference_steps} if levels is None else {"sigmas": levels}
        scheduler.set_timesteps(**given, device="cpu", mu=shift)
        # A schedule that is stretched to end at a given level cannot be, where its only step begins at 1.
        if not bool(scheduler.sigmas.isfinite().all()):
            raise ValueError(f"this model needs more than {request.num_inference_steps} step; ask for two or more")

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
        sample.latents = self.packed(self.add_noise(scheduler, picture, noise, sample.timesteps[:1]))
        if order.mask is None:
            return
        mask_pixels = self.masks.preprocess(order.mask, **size)
        mask = torch.nn.functional.interpolate(mask_pixels, size=noise.shape[-2:]).to(self.device, self.dtype)
        sample.inpaint = Inpaint(
            mask=self.packed(mask.expand_as(noise)), original=self.packed(picture), noise=self.packed(noise)
        )


class PackedFlowFamily(FlowFamily):
    """Its transformer takes a picture as a run of tokens: [1, S, 4 C], two by two latent pixels each."""

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = self.pipeline._pack_latents(latents, *latents.shape)
        return packed

    def unpacked(self, latents: torch.Tensor, width_px: int, height_px: int) -> torch.Tensor:
        unpacked: torch.Tensor = self.pipeline._unpack_latents(
            latents, height_px, width_px, self.pipeline.vae_scale_factor
        )
        return unpacked
