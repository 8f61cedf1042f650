"""A tiny recipe and tiny packages laid out as npm would leave them: no network, seconds of work."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from training.pretrain.recipe import PretrainRecipe

COLOURS = {"1f34e": "red", "1f34f": "green", "1f34b": "yellow", "1f6a9-fe0f": "blue"}
LABELS = {"1F34E": "red apple", "1F34F": "green apple", "1F34B": "lemon", "1F6A9": "Flag’s pole"}


@pytest.fixture
def recipe() -> PretrainRecipe:
    return PretrainRecipe.model_validate(
        {
            "id": "tiny",
            "resolution_px": 64,
            "threads": 1,
            "checkpoint_every_s": 0.01,
            "data": {"subgroups": ["food-fruit"]},
            "pictures": {"backgrounds": {"white": (255, 255, 255), "sky blue": (120, 195, 245)}},
            "autoencoder": {
                "channels": (8, 8, 8, 8),
                "norm_groups": 4,
                "budget_s": 0.4,
                "crop_px": 32,
                "crops_per_step": 4,
                "decoder_budget_s": 0.2,
            },
            "latents": {"placed_per_subject": 3, "pairs": 4},
            "text": {"width": 16, "layers": 1, "heads": 2, "max_tokens": 24, "vocabulary": 700},
            "denoiser": {"channels": (8, 8, 16), "norm_groups": 4, "heads": 2, "budget_s": 0.4, "batch": 4},
        }
    )


@pytest.fixture
def cache(tmp_path: Path, recipe: PretrainRecipe) -> Path:
    modules = tmp_path / "cache" / "npm" / "node_modules"
    pictures, labels = modules / recipe.data.pictures_package, modules / recipe.data.labels_package
    for folder in (pictures / "assets", labels / "en", labels / "meta"):
        folder.mkdir(parents=True)
    for folder in (pictures, labels):
        (folder / "package.json").write_text("{}")
    for name, colour in COLOURS.items():
        image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
        ImageDraw.Draw(image).ellipse((28, 28, 228, 228), fill=colour)
        image.save(pictures / "assets" / f"{name}.webp", lossless=True)
    entries = [
        {"hexcode": code, "label": label, "tags": ["thing", "round"], "subgroup": int(code == "1F6A9"), "order": index}
        for index, (code, label) in enumerate(LABELS.items())
    ]
    (labels / "en" / "data.json").write_text(json.dumps(entries))
    (labels / "meta" / "groups.json").write_text(json.dumps({"subgroups": {"0": "food-fruit", "1": "flag"}}))
    return tmp_path / "cache"
