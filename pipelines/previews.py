"""Small pictures of unfinished latents: a linear map from latents to colours, fitted to the model when it loads.

That latents are nearly linear in the colours of the patch they stand for was seen by K. Turner for SD 1.x (2022); here
the map is found by least squares on pictures that the model's own autoencoder has encoded.
"""

import io

import torch
from PIL import Image

from pipelines.families.base import Family

# P patches, C latent channels, N pictures, H W latent size

NUM_PICTURES = 8
SIDE_PX = 128
SMALLEST_SIDE_PX = 128  # smaller previews are enlarged: a latent pixel becomes a square
JPEG_QUALITY = 80


class LatentColours:
    """The map, [C + 1, 3]; the last row is the colour of latents that are zero."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights = weights

    @classmethod
    def fit(cls, family: Family) -> "LatentColours":
        """Encodes smooth random pictures and solves for their colours."""
        generator = torch.Generator("cpu").manual_seed(0)
        pictures_N3HW = smooth_pictures(NUM_PICTURES, SIDE_PX, generator)
        latents = torch.cat([family.encode_picture(picture[None], generator) for picture in pictures_N3HW])
        colours = torch.nn.functional.adaptive_avg_pool2d(pictures_N3HW, (latents.shape[-2], latents.shape[-1]))
        colours_P3 = colours.permute(0, 2, 3, 1).reshape(-1, 3)
        return cls(torch.linalg.lstsq(_with_ones(latents), colours_P3).solution)

    def colours(self, latents: torch.Tensor) -> torch.Tensor:
        """[N, H, W, 3], 0 to 1, of clean latents [N, C, H, W]."""
        flat_P3 = _with_ones(latents) @ self.weights
        return (flat_P3 / 2 + 0.5).clamp(0, 1).reshape(len(latents), *latents.shape[-2:], 3)

    def draw(self, latents: torch.Tensor) -> bytes:
        """A JPEG of one picture's latents [1, C, H, W]."""
        pixels = (self.colours(latents)[0] * 255).round().to(torch.uint8).numpy()
        image = Image.fromarray(pixels)
        enlarged = -(-SMALLEST_SIDE_PX // max(image.size))
        if enlarged > 1:
            image = image.resize((image.width * enlarged, image.height * enlarged), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()


def smooth_pictures(num: int, side_px: int, generator: torch.Generator) -> torch.Tensor:
    """[num, 3, side, side], -1 to 1: soft patches of every colour."""
    # Twice the range, cut off: pure colours, black and white are common in pictures.
    coarse = (torch.rand(num, 3, 6, 6, generator=generator) * 2 - 1) * 2
    return torch.nn.functional.interpolate(coarse, size=(side_px, side_px), mode="bicubic").clamp(-1, 1)


def _with_ones(latents: torch.Tensor) -> torch.Tensor:
    flat_PC = latents.float().cpu().permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    return torch.cat([flat_PC, flat_PC.new_ones(len(flat_PC), 1)], dim=1)
