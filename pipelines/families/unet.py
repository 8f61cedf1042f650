"""What the families around a UNet share: noise or a picture to start from, and one forward pass over mixed rows."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from diffusers.image_processor import VaeImageProcessor

from models.loader import LoadedModel
from models.lora import LoraBank
from pipelines.families.base import Family, timesteps_from
from pipelines.request import GenerationRequest
from pipelines.sample import Inpaint, Order, Sample, Scheduler
from pipelines.speed import Compiler

# R rows, L text tokens, D text width, C latent channels, H W latent size; a leading 1 is one picture.

INPAINT_CHANNELS = 9  # a UNet made for inpainting sees noise, mask and masked picture side by side


class UNetFamily(Family):
    """A denoiser that takes latents, a timestep and text tokens; what else it is told, the family says."""

    denoiser_name = "unet"

    def __init__(self, loaded: LoadedModel, bank: LoraBank, compiler: Compiler | None = None) -> None:
        super().__init__(loaded, bank, compiler)
        self.unet = loaded.pipeline.unet
        self.masks = VaeImageProcessor(
            vae_scale_factor=self.pipeline.vae_scale_factor,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )

    @abstractmethod
    def added_conditions(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor] | None:
        """What the UNet is told beside the text tokens, one row each, in the order of sample.texts."""

    def is_guided(self, request: GenerationRequest) -> bool:
        # A UNet with guidance distilled into it takes the scale as an input, not as a second row.
        return super().is_guided(request) and self.unet.config.time_cond_proj_dim is None

    def start(self, order: Order) -> Sample:
        request = order.request
        scheduler = self.scheduler(request.scheduler)
        scheduler.set_timesteps(request.num_inference_steps, device="cpu")
        sample = self.new_sample(order, scheduler)
        if order.image is None:
            sample.latents = self.noise(order, sample.generator) * scheduler.init_noise_sigma
        else:
            self._start_from_picture(sample)
        if (width := self.unet.config.time_cond_proj_dim) is not None:
            scale = torch.tensor([request.guidance_scale - 1])
            embedded = self.pipeline.get_guidance_scale_embedding(scale, embedding_dim=width)
            sample.conditioning["guidance"] = embedded.to(self.device, self.dtype)
        return sample

    def predict(self, samples: Sequence[Sample], *, is_adapted: bool) -> torch.Tensor:
        inputs: list[torch.Tensor] = []
        for sample in samples:
            scaled = sample.scheduler.scale_model_input(sample.latents, sample.timestep)
            if "masked_picture" in sample.conditioning:
                scaled = torch.cat([scaled, sample.conditioning["masked_picture"]], dim=1)
            inputs += [scaled] * sample.num_rows
        # Schedulers count in whole and in broken numbers; the UNet makes floats of both.
        timesteps = torch.stack([s.timestep.float() for s in samples for _ in range(s.num_rows)])
        tokens_RLD = torch.stack([text.tokens_LD for sample in samples for text in sample.texts])
        guidance = [s.conditioning["guidance"] for s in samples if "guidance" in s.conditioning]
        rows = {
            "sample": torch.cat(inputs),
            "timestep": timesteps.to(self.device),
            "encoder_hidden_states": tokens_RLD,
            "timestep_cond": torch.cat(guidance) if guidance else None,
            "added_cond_kwargs": self.added_conditions(samples),
        }
        return self.denoiser(rows, {}, num_rows=len(inputs), is_adapted=is_adapted)

    def _start_from_picture(self, sample: Sample) -> None:
        """Image-to-image and inpainting, each drawing its noise in the order in which the pipelines draw it."""
        order, generator, scheduler = sample.order, sample.generator, sample.scheduler
        request = order.request
        sample.timesteps = remaining_timesteps(scheduler, request)
        size = {"height": request.height_px, "width": request.width_px}
        pixels = self.pipeline.image_processor.preprocess(order.image, **size)
        picture = self._picture_latents(order, pixels, generator)
        noise = self.noise(order, generator)
        # All of the steps from a mask: nothing of the picture needs to shine through where it is painted anew.
        if order.mask is not None and request.strength == 1.0:
            sample.latents = noise * scheduler.init_noise_sigma
        else:
            sample.latents = self.add_noise(scheduler, picture, noise, sample.timesteps[:1])
        if order.mask is None:
            return
        mask_pixels = self.masks.preprocess(order.mask, **size)
        mask = torch.nn.functional.interpolate(mask_pixels, size=noise.shape[-2:]).to(self.device, self.dtype)
        masked_picture = self.encode_picture(pixels * (mask_pixels < 0.5), generator)
        if self._is_inpainting_model:
            sample.conditioning["masked_picture"] = torch.cat([mask, masked_picture], dim=1)
        else:
            sample.inpaint = Inpaint(mask=mask, original=picture, noise=noise)

    def _picture_latents(self, order: Order, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if order.mask is not None and self._is_inpainting_model and order.request.strength == 1.0:
            return torch.empty(0)  # never looked at, and the pipeline draws no noise for it either
        return self.encode_picture(pixels, generator)

    @property
    def _is_inpainting_model(self) -> bool:
        return int(self.unet.config.in_channels) == INPAINT_CHANNELS


def remaining_timesteps(scheduler: Scheduler, request: GenerationRequest) -> torch.Tensor:
    """The last `strength` of all timesteps; ValueError when not one is left."""
    steps = request.num_inference_steps
    first = (steps - min(int(steps * request.strength), steps)) * scheduler.order
    return timesteps_from(scheduler, first, request)
