"""Quality of the embedded model as numbers: subjects recognised, background colours, PSNR, seconds a picture."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from training.pretrain.captions import full_caption
from training.pretrain.card import put_figures
from training.pretrain.export import NOTE
from training.pretrain.fetch import fetch_packages
from training.pretrain.pictures import Cutouts, centred, compose, load_cutouts, psnr_db
from training.pretrain.quality import Pixels, border_colour, name_colour, ranks_of_truth, share_within
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.subjects import Subject, choose_subjects

FIRST_SEED = 1000
ROWS_AT_ONCE = 20
SHEET_COLUMNS, SHEET_ROWS = 10, 5
SHEET_CELL_PX, SHEET_TEXT_PX = 104, 16


@dataclass(frozen=True)
class Counts:
    """How many pictures each figure is taken over."""

    labels: int
    labels_per_colour: int
    psnr_pictures: int
    timed_pictures: int


FULL = Counts(labels=200, labels_per_colour=10, psnr_pictures=100, timed_pictures=5)
QUICK = Counts(labels=40, labels_per_colour=2, psnr_pictures=20, timed_pictures=2)


class Painter:
    """The model with fixed seeds and the defaults it was made for."""

    def __init__(self, folder: Path, recipe: PretrainRecipe, *, guidance: float, steps: int) -> None:
        self._pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        self._pipeline.set_progress_bar_config(disable=True)
        self._recipe, self._guidance, self._steps = recipe, guidance, steps

    def paint(self, prompts: Sequence[str], *, at_once: int = ROWS_AT_ONCE) -> list[Pixels]:
        """One picture for each prompt; the n-th prompt's seed depends on n alone."""
        made: list[Pixels] = []
        for start in range(0, len(prompts), at_once):
            some = list(prompts[start : start + at_once])
            seeds = range(FIRST_SEED + start, FIRST_SEED + start + len(some))
            images = self._pipeline(
                some,
                num_inference_steps=self._steps,
                guidance_scale=self._guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            ).images
            made += [np.asarray(image.convert("RGB")) for image in images]
        return made

    @torch.no_grad()
    def psnr(self, pictures_BCHW: torch.Tensor) -> float:
        """Mean over the pictures, encoded and decoded without noise."""
        vae = self._pipeline.vae
        parts = [vae.decode(vae.encode(rows).latent_dist.mean).sample for rows in pictures_BCHW.split(10)]
        return float(psnr_db(torch.cat(parts), pictures_BCHW).mean())


def main(
    model: Annotated[Path, typer.Option(help="model folder")] = Path("models/embedded/emoji-3d"),
    cache: Annotated[Path | None, typer.Option(help="where the true pictures are, or are fetched to")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="figures as JSON")] = None,
    sheet: Annotated[Path | None, typer.Option(help="contact sheet (PNG); beside the JSON by default")] = None,
    guidance: Annotated[float | None, typer.Option(help="instead of the model's default")] = None,
    steps: Annotated[int | None, typer.Option(help="instead of the model's default")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="a fifth of the pictures: a look, not a figure")] = False,
    update_card: Annotated[bool, typer.Option("--update-card", help="put the figures into MODEL_CARD.md")] = False,
) -> None:
    """Measure the model on this CPU with fixed seeds; print, and keep as JSON and as a contact sheet."""
    torch.set_num_threads(threads)
    note = json.loads((model / NOTE).read_text(encoding="utf-8"))
    recipe = PretrainRecipe.model_validate(note["recipe"])
    subjects = choose_subjects(
        recipe.data, *fetch_packages(recipe.data, cache or Path(".darkroom/pretrain") / recipe.id)
    )
    asked_guidance = recipe.sampling.guidance if guidance is None else guidance
    painter = Painter(model, recipe, guidance=asked_guidance, steps=steps or recipe.sampling.steps)
    figures: dict[str, float | int] = {"guidance": asked_guidance, "steps": steps or recipe.sampling.steps}
    figures |= {"subjects": len(subjects), "denoiser_steps": int(note["denoiser_steps"])}
    figures |= measure(painter, recipe, subjects, QUICK if quick else FULL)
    out = json_path or Path(".darkroom/bench/embedded.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_sheet(painter, recipe, subjects, sheet or out.with_suffix(".png"))
    if update_card:
        put_figures(model / "MODEL_CARD.md", figures)
    _print_table(figures)


def measure(
    painter: Painter, recipe: PretrainRecipe, subjects: list[Subject], counts: Counts
) -> dict[str, float | int]:
    """All figures over subjects spread evenly through the list."""
    shown = spread(subjects, counts.labels)
    cutouts = load_cutouts(shown, round(recipe.resolution_px * recipe.pictures.canonical_share))
    true = _to_pixels(_on_colours(cutouts, recipe, ["white"] * len(shown)))
    made = painter.paint([full_caption(subject.label, "white") for subject in shown])
    ranks = ranks_of_truth(made, true)
    few = spread(subjects, counts.psnr_pictures)
    few_cutouts = load_cutouts(few, cutouts.size_px)
    colours = list(recipe.pictures.backgrounds)
    varied = [colours[index % len(colours)] for index in range(len(few))]
    started_s = time.perf_counter()
    painter.paint([full_caption(subject.label, "white") for subject in shown[: counts.timed_pictures]], at_once=1)
    seconds = (time.perf_counter() - started_s) / counts.timed_pictures
    return {
        "top1": round(share_within(ranks, 1), 4),
        "top5": round(share_within(ranks, 5), 4),
        "colours": round(_right_colours(painter, recipe, subjects, counts.labels_per_colour), 4),
        "psnr_db": round(painter.psnr(_on_colours(few_cutouts, recipe, varied)), 2),
        "seconds_per_picture": round(seconds, 2),
        "labels": len(shown),
    }


def spread(subjects: list[Subject], count: int) -> list[Subject]:
    """`count` subjects at even distances; all when there are fewer."""
    count = min(count, len(subjects))
    return [subjects[index * len(subjects) // count] for index in range(count)]


def write_sheet(painter: Painter, recipe: PretrainRecipe, subjects: list[Subject], path: Path) -> None:
    """Pictures with their prompts below: mostly white backgrounds, the last two rows on the other colours."""
    shown = spread(subjects, SHEET_COLUMNS * SHEET_ROWS)
    colours = [name for name in recipe.pictures.backgrounds if name != "white"]
    prompts, captions = [], []
    for index, subject in enumerate(shown):
        background = "white" if index % 5 < 3 else colours[index % len(colours)]
        prompts.append(full_caption(subject.label, background))
        captions.append(subject.label if background == "white" else f"{subject.label}, {background}")
    width_px, height_px = SHEET_COLUMNS * SHEET_CELL_PX, SHEET_ROWS * (SHEET_CELL_PX + SHEET_TEXT_PX)
    sheet = Image.new("RGB", (width_px, height_px), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (pixels, caption) in enumerate(zip(painter.paint(prompts), captions, strict=True)):
        left_px = index % SHEET_COLUMNS * SHEET_CELL_PX
        top_px = index // SHEET_COLUMNS * (SHEET_CELL_PX + SHEET_TEXT_PX)
        cell = Image.fromarray(pixels).resize((SHEET_CELL_PX, SHEET_CELL_PX), Image.Resampling.LANCZOS)
        sheet.paste(cell, (left_px, top_px))
        draw.text((left_px + 2, top_px + SHEET_CELL_PX + 1), caption[:19], fill=(40, 40, 40), font_size=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def _right_colours(painter: Painter, recipe: PretrainRecipe, subjects: list[Subject], labels: int) -> float:
    palette = recipe.pictures.backgrounds
    asked = [(subject, colour) for colour in palette for subject in spread(subjects, labels)]
    made = painter.paint([full_caption(subject.label, colour) for subject, colour in asked])
    right = [
        name_colour(border_colour(pixels), palette) == colour for pixels, (_, colour) in zip(made, asked, strict=True)
    ]
    return sum(right) / len(right)


def _on_colours(cutouts: Cutouts, recipe: PretrainRecipe, colours: list[str]) -> torch.Tensor:
    rgb_B3 = torch.tensor([recipe.pictures.backgrounds[colour] for colour in colours])
    start_px = torch.full((len(cutouts),), centred(cutouts.size_px, recipe.resolution_px))
    which_B = torch.arange(len(cutouts))
    return compose(cutouts, which_B, rgb_B3, canvas_px=recipe.resolution_px, lefts_px=start_px, tops_px=start_px)


def _to_pixels(pictures_BCHW: torch.Tensor) -> list[Pixels]:
    scaled_BHWC = ((pictures_BCHW + 1.0) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return [np.asarray(picture) for picture in scaled_BHWC]


def _print_table(figures: dict[str, float | int]) -> None:
    table = Table("figure", "value", title="embedded model")
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
