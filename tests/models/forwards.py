"""One forward pass of a tiny model: random inputs for any number of rows, and the same inputs for one of them."""

from typing import Any

import torch

from models.spec import Family


def denoiser_inputs(family: Family, num_rows: int, seed: int = 0) -> dict[str, Any]:
    random_B = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(num_rows, *shape, generator=random_B)

    if family == "flux":
        return {
            "hidden_states": noise(16, 4),
            "encoder_hidden_states": noise(7, 32),
            "pooled_projections": noise(32),
            "timestep": torch.rand(num_rows, generator=random_B),
            "guidance": torch.full((num_rows,), 3.5),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(7, 3),
        }
    if family == "sd3":
        return {
            "hidden_states": noise(16, 8, 8),
            "encoder_hidden_states": noise(7, 72),
            "pooled_projections": noise(64),
            "timestep": torch.rand(num_rows, generator=random_B) * 1000,
        }
    if family == "z-image":
        return {
            "x": [noise_CFHW for noise_CFHW in noise(16, 1, 8, 8)],
            "t": torch.rand(num_rows, generator=random_B),
            "cap_feats": [torch.randn(20 + 5 * row, 32, generator=random_B) for row in range(num_rows)],
        }
    if family == "qwen-image":
        return {
            "hidden_states": noise(16, 16),
            "encoder_hidden_states": noise(7, 32),
            "timestep": torch.rand(num_rows, generator=random_B),
            "img_shapes": [[(1, 4, 4)]] * num_rows,
        }
    inputs: dict[str, Any] = {
        "sample": noise(4, 8, 8),
        "timestep": torch.randint(0, 1000, (num_rows,), generator=random_B),
        "encoder_hidden_states": noise(77, 32 if family == "sd" else 64),
    }
    if family == "sdxl":
        inputs["added_cond_kwargs"] = {"text_embeds": noise(32), "time_ids": noise(6)}
    return inputs


def one_row(inputs: dict[str, Any], row: int) -> dict[str, Any]:
    def cut(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return one_row(value, row)
        return value if name in ("img_ids", "txt_ids") else value[row : row + 1]

    return {name: cut(name, value) for name, value in inputs.items()}


def denoise(pipeline: Any, family: Family, inputs: dict[str, Any]) -> torch.Tensor:
    model = pipeline.unet if family in ("sd", "sdxl") else pipeline.transformer
    with torch.inference_mode():
        output = model(**inputs, return_dict=False)[0]
    return torch.stack(output) if isinstance(output, list) else output


def encode(encoder: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(tokens, output_hidden_states=True).hidden_states[-1]
