"""What the learners of all families share: a frozen pipeline, the LoRA on it, its tensors in and out, precision.

A family says how it makes an error of a batch, and what it is told of texts and sizes.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from models.spec import Family
from training.learners.base import Batch, Draws, LatentStats
from training.learners.recordings import Recordings
from training.recipe import Recipe, RecipeError
from training.targets import DENOISERS, adapted_layers, add_adapter, lora_configs, switched_off

MAX_COMPILED = 128  # versions of one function


class AdaptedLearner(ABC):
    """Learner (training.learners.base) over a diffusers pipeline, which it changes: the LoRA is put onto its modules.

    Off train_mode the pipeline may be used as it is, and makes pictures with what was learned so far.
    """

    patch = 1  # latent pixels a side that the denoiser takes as one

    def __init__(
        self,
        pipeline: Any,  # noqa: ANN401 - diffusers is untyped
        family: Family,
        recipe: Recipe,
        *,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self.pipeline, self.recipe = pipeline.to(device), recipe
        if self.pipeline.dtype != dtype:
            self.pipeline.to(dtype)
        self.device, self.dtype = device, dtype
        self.denoiser = getattr(pipeline, DENOISERS[family][0])
        self.latent_channels = int(pipeline.vae.config.latent_channels)
        self.latent_factor = int(pipeline.vae_scale_factor)
        self.multiple_px = self.latent_factor * self.patch
        if self.denoiser.config.in_channels != self.latent_channels * self.patch**2:
            raise RecipeError("This model is made for inpainting or another control, and cannot be trained.")
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        # Convolutions are faster so, on CPUs by a tenth of a step; the LoRA's own tensors stay as files have them.
        self.denoiser.to(memory_format=torch.channels_last)
        self.configs = lora_configs(pipeline, family, recipe)
        self._trainable = add_adapter(pipeline, self.configs, seed)
        self._parts = {name: getattr(pipeline, name) for name in self.configs}
        self._layers = [layer for part in self._parts.values() for layer in adapted_layers(part)]
        self._is_training = False
        if recipe.loop.gradient_checkpointing:
            self._save_memory()
        if recipe.loop.compile and device.type == "cuda":
            self.denoiser.compile_repeated_blocks()
            # Blocks of one class share their compiled code, and each is seen at every size and with every bucket.
            torch._dynamo.config.recompile_limit = MAX_COMPILED
        self._recordings: Recordings | None = None
        if recipe.loop.record and device.type == "cuda":
            self._recordings = Recordings(list(self._trainable.values()))
        # Both draw or restore chance on the way, which a recording must not.
        self._records_steps = not recipe.loop.gradient_checkpointing and not recipe.lora.dropout

    # What a family is made of.

    @abstractmethod
    def cache_texts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """What the denoiser is told of each text, or, where encoders are trained, what those are told."""

    @abstractmethod
    def errors(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """[B]: the mean squared error of each sample; and what it counts, where not all count the same."""

    def shape_of(
        self,
        original_px: tuple[int, int],  # noqa: ARG002
        crop_px: tuple[int, int],  # noqa: ARG002
        target_px: tuple[int, int],  # noqa: ARG002
    ) -> Mapping[str, Tensor]:
        """Most families are told nothing of it."""
        return {}

    # What all of them share.

    @property
    def trains_texts(self) -> bool:
        """Whether a text encoder carries a LoRA too, and texts are encoded in every step."""
        return len(self._parts) > 1

    def trainable(self) -> Mapping[str, nn.Parameter]:
        return self._trainable

    def parameter_groups(self) -> Sequence[tuple[str, Sequence[nn.Parameter]]]:
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self._trainable.items():
            group = "text_encoder" if name.startswith("text_encoder") else "denoiser"
            groups.setdefault(group, []).append(parameter)
        return sorted(groups.items())

    def losses(self, batch: Batch, draws: Draws) -> Tensor:
        if self._recordings is not None and self._records_steps and self._is_training:
            return self._recordings.learned(self._weighted, batch, draws)
        return self._weighted(batch, draws)

    @torch.no_grad()
    def plain_losses(self, batch: Batch, draws: Draws, *, with_adapter: bool = True) -> Tensor:
        was_training = self._is_training
        self.train_mode(False)
        try:
            with nullcontext() if with_adapter else self.without_adapter():
                if self._recordings is not None:
                    kind = "learned" if with_adapter else "base"
                    return self._recordings.seen(kind, self._unweighted, batch, draws)
                return self._unweighted(batch, draws)
        finally:
            self.train_mode(was_training)

    def without_adapter(self) -> AbstractContextManager[None]:
        return switched_off(self._layers)

    def train_mode(self, is_on: bool) -> None:
        self._is_training = is_on
        for part in self._parts.values():
            part.train(is_on)
        for layer in self._layers:
            # Under autocast a layer's input has its precision already; PEFT would cast it to the LoRA's and back.
            # DoRA's norms are to stay exact.
            layer.cast_input_dtype_enabled = not is_on or self.recipe.lora.dora

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in self._trainable.items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if odd := sorted(self._trainable.keys() ^ tensors.keys()):
            raise KeyError(f"{odd[0]} and {len(odd) - 1} more are not in both what is trained and what was saved")
        for name, parameter in self._trainable.items():
            parameter.copy_(tensors[name])

    @torch.no_grad()
    def cache_pictures(self, pixels_B3HW: Tensor) -> LatentStats:
        with _in_float32(self.pipeline.vae) as vae:
            posterior = vae.encode(pixels_B3HW.to(self.device, torch.float32)).latent_dist
        shift, scale = self._latent_units()
        return LatentStats((posterior.mean - shift) * scale, posterior.std * scale)

    def drawn(self, stats: LatentStats, draws: Draws) -> Tensor:
        """[B, C, H, W]: one draw of the latents, as the denoiser takes them."""
        return stats.mean_BCHW + stats.std_BCHW * draws.posterior_BCHW

    def computing(self) -> torch.autocast:
        """The precision that the denoiser and the encoders run in; the LoRA itself is float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def token_ids(self, tokenizer: Any, texts: Sequence[str]) -> Tensor:  # noqa: ANN401
        """[B, L], cut and filled up as the pipelines do it."""
        length = tokenizer.model_max_length
        told = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids: Tensor = told.input_ids.to(self.device)
        return ids

    def _weighted(self, batch: Batch, draws: Draws) -> Tensor:
        errors_B, weight_B = self.errors(batch, draws)
        return errors_B if weight_B is None else errors_B * weight_B

    def _unweighted(self, batch: Batch, draws: Draws) -> Tensor:
        return self.errors(batch, draws)[0]

    def _latent_units(self) -> tuple[Tensor | float, Tensor | float]:
        """What is taken from an autoencoder's latents, and what they are multiplied by, for the denoiser."""
        config = self.pipeline.vae.config
        factor = float(config.get("scaling_factor") or 1.0)
        means, spreads = config.get("latents_mean"), config.get("latents_std")
        if means is None or spreads is None:
            return float(config.get("shift_factor") or 0.0), factor
        mean, spread = (torch.tensor(values, device=self.device).view(1, -1, 1, 1) for values in (means, spreads))
        return mean, factor / spread

    def _save_memory(self) -> None:
        for name, part in self._parts.items():
            if name.startswith("text_encoder"):
                part.activation_checkpointing_enable({"use_reentrant": False})
            else:
                part.enable_gradient_checkpointing()


@contextmanager
def _in_float32(module: nn.Module) -> Generator[Any, None, None]:
    """Some autoencoders overflow in half precision, and each picture is encoded only once."""
    dtype = next(module.parameters()).dtype
    module.float()
    try:
        yield module
    finally:
        module.to(dtype)
