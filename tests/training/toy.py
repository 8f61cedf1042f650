"""A learner of two small matrices with dropout: as true to the protocol as real ones, and a thousand times faster."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.checkpoints import CheckpointFile, Environment, Identity
from training.data_order import Placed
from training.learners.base import Batch, Draws, LatentStats
from training.recipe import Recipe
from training.trainer import Trainer

CHANNELS, SIDE = 2, 4
CPU = torch.device("cpu")


class ToyLearner:
    """Predicts noise by a linear map with a low-rank change."""

    device = CPU
    latent_channels = CHANNELS
    latent_factor = 1
    multiple_px = 1

    def __init__(self, *, dropout: float = 0.0, snag: Callable[[], None] = lambda: None) -> None:
        chance = torch.Generator().manual_seed(7)
        width = CHANNELS * SIDE * SIDE
        self.base = torch.randn(width, width, generator=chance) / width**0.5
        self.down = nn.Parameter(torch.randn(3, width, generator=chance) / width**0.5)
        self.up = nn.Parameter(torch.zeros(width, 3))
        self.words = nn.Parameter(torch.zeros(width))
        self.dropout = dropout
        self.is_training = False
        self.snag = snag

    def trainable(self) -> Mapping[str, nn.Parameter]:
        return {"denoiser.down": self.down, "denoiser.up": self.up, "text_encoder.words": self.words}

    def parameter_groups(self) -> Sequence[tuple[str, Sequence[nn.Parameter]]]:
        return [("denoiser", [self.down, self.up]), ("text_encoder", [self.words])]

    def cache_pictures(self, pixels_B3HW: Tensor) -> LatentStats:
        raise NotImplementedError

    def cache_texts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def shape_of(self, original_px, crop_px, target_px) -> Mapping[str, Tensor]:
        return {}

    def losses(self, batch: Batch, draws: Draws) -> Tensor:
        self.snag()
        return self._errors(batch, draws, with_adapter=True)

    @torch.no_grad()
    def plain_losses(self, batch: Batch, draws: Draws, *, with_adapter: bool = True) -> Tensor:
        assert not self.is_training, "validated with dropout on"
        return self._errors(batch, draws, with_adapter=with_adapter)

    def train_mode(self, is_on: bool) -> None:
        self.is_training = is_on

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.trainable().items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors.keys() != self.trainable().keys():
            raise KeyError(str(tensors.keys() ^ self.trainable().keys()))
        for name, parameter in self.trainable().items():
            parameter.copy_(tensors[name])

    def _errors(self, batch: Batch, draws: Draws, *, with_adapter: bool) -> Tensor:
        latents = batch.latents.mean_BCHW + batch.latents.std_BCHW * draws.posterior_BCHW
        time = draws.timestep_B.view(-1, 1, 1, 1)
        noise = draws.noise_BCHW + 0.1 * draws.offset_BC11
        rows = (latents * (1 - time) + noise * time).flatten(1)
        predicted = rows @ self.base.T
        if with_adapter:
            dropped = nn.functional.dropout(rows, self.dropout, self.is_training)
            predicted = predicted + dropped @ self.down.T @ self.up.T + batch.texts["on"] * self.words
        return (predicted - noise.flatten(1)).square().mean(dim=1)


@dataclass(frozen=True, slots=True)
class ToySample:
    bucket: tuple[int, int]
    is_held_out: bool = False
    is_prior: bool = False


class ToySamples:
    """Twelve samples in two buckets of one latent size, three of them held out, two of them prior."""

    def __init__(self) -> None:
        buckets = [(4, 4)] * 8 + [(8, 2)] * 4
        self.samples: Sequence[Placed] = [
            ToySample(bucket, is_held_out=i in (0, 5, 9), is_prior=i in (2, 10)) for i, bucket in enumerate(buckets)
        ]
        chance = torch.Generator().manual_seed(8)
        subject = torch.randn(CHANNELS, SIDE, SIDE, generator=chance)
        self.mean = subject + 0.1 * torch.randn(len(buckets), CHANNELS, SIDE, SIDE, generator=chance)

    def batch(self, ids: Sequence[int], *, without_words: Sequence[bool]) -> Batch:
        mean = self.mean[list(ids)]
        words = torch.tensor([[0.0 if is_wordless else 1.0] for is_wordless in without_words])
        weight = torch.tensor([0.5 if self.samples[i].is_prior else 1.0 for i in ids])
        return Batch(LatentStats(mean, torch.full_like(mean, 0.1)), {"on": words}, {}, weight)


IDENTITY = Identity("recipe", "data", "base")


def toy_recipe(**changes) -> Recipe:
    """Everything on that a checkpoint has to carry, and steps of it that fall on no round number."""
    tree = {
        "title": "toy",
        "captions": {"drop_rate": 0.3},
        "lora": {"dropout": 0.2},
        "optimizer": {"learning_rate": 0.02, "text_encoder_learning_rate": 0.01, "warmup_steps": 3},
        "loop": {"batch_size": 2, "accumulate": 2, "ema_decay": 0.9},
        "validation": {"every_steps": 5, "num_draws": 3, "patience": 3},
        "samples": {"every_steps": 7},
    }
    for part, values in changes.items():
        tree[part] = {**tree.get(part, {}), **values}
    return Recipe.model_validate(tree)


def toy_file(folder: Path, identity: Identity = IDENTITY) -> CheckpointFile:
    return CheckpointFile(folder / "checkpoint.safetensors", identity, Environment.here(CPU))


def toy_trainer(folder: Path, recipe: Recipe, *, learner: ToyLearner | None = None, **options) -> Trainer:
    terms = {"steps": 12, "seed": 5, "file": toy_file(folder), "checkpoint_s": 1e9, "tell": lambda news: None}
    return Trainer(learner or ToyLearner(dropout=recipe.lora.dropout), ToySamples(), recipe, **{**terms, **options})
