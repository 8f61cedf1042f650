"""Writes the MODEL_CARD.md beside the weights; measured figures are put in later, between two marks."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from training.pretrain.recipe import PretrainRecipe
from training.pretrain.subjects import Subject

FIGURES_START, FIGURES_END = "<!-- figures -->", "<!-- /figures -->"

_FIGURE_ROWS = {
    "top1": "made picture's nearest true picture is its own (top-1)",
    "top5": "own picture among the nearest five (top-5)",
    "colours": "border has the asked colour (8 colours x 10 labels)",
    "psnr_db": "autoencoder PSNR, dB",
    "seconds_per_picture": "seconds a picture, 2 CPU threads, alone",
}


def write_card(recipe: PretrainRecipe, subjects: list[Subject], path: Path, *, step: int) -> None:
    """A fresh card; its figures are empty until the bench has run on these weights."""
    backgrounds = ", ".join(recipe.pictures.backgrounds)
    side_px = recipe.resolution_px
    sections = [
        f"# {recipe.id}\n\nA small text-to-image model that ships with Darkroom: pictures of {side_px}x{side_px} in "
        f"the style of 3D emoji. Its classes are the ordinary ones (`StableDiffusionPipeline`: `UNet2DConditionModel`, "
        f"`AutoencoderKL`, `CLIPTextModel`, `CLIPTokenizer`, `DDIMScheduler`), so what works on it works on "
        f"Stable Diffusion 1.5. Stored as float16 safetensors; loads and computes in float32.",
        _use(recipe, backgrounds),
        "## Figures\n\nMeasured with `scripts/bench_embedded.py` on CPU, fixed seeds. Pictures are compared at 32x32 "
        "after cutting the subject out by its bounding box; stray pixels (the decoder leaves some in the corners) "
        f"do not stretch the box, or few would be recognised.\n\n{FIGURES_START}\n"
        f"Not measured yet.\n{FIGURES_END}",
        _data(recipe),
        _training(recipe, step),
        "## Limits\n\n"
        "- It has learned the subjects below by heart, and little else: other words give a blend of what they "
        "resemble, and seeds vary a picture little. The figures are over subjects it was trained on; none "
        "were held out.\n"
        "- Fine detail, text and counting are beyond it; two subjects in one picture are smaller and weaker.\n"
        f"- It was trained at {side_px}x{side_px} only; other sizes (multiples of 8) run, but look worse.\n"
        "- No people, hands or flags were among its subjects.",
        _list_subjects(subjects),
    ]
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def put_figures(path: Path, figures: Mapping[str, float | int]) -> None:
    """Replace what stands between the marks with a table of the figures."""
    before, _, rest = path.read_text(encoding="utf-8").partition(FIGURES_START)
    _, _, after = rest.partition(FIGURES_END)
    rows = [f"| {words} | {_show(name, figures[name])} |" for name, words in _FIGURE_ROWS.items() if name in figures]
    head = f"Over {figures['labels']} labels; {figures['steps']} steps, guidance {figures['guidance']}."
    table = "\n".join([head, "", "| figure | value |", "|---|---|", *rows])
    path.write_text(f"{before}{FIGURES_START}\n{table}\n{FIGURES_END}{after}", encoding="utf-8")


def _show(name: str, value: float | int) -> str:
    return f"{value:.1%}" if name in ("top1", "top5", "colours") else str(value)


def _use(recipe: PretrainRecipe, backgrounds: str) -> str:
    return (
        f"## Use\n\n```python\npipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)\n"
        f'pipeline("a red apple", num_inference_steps={recipe.sampling.steps}, '
        f"guidance_scale={recipe.sampling.guidance:g}).images[0]\n```\n\n"
        f'Prompts name a subject, as in "a red apple" or "red apple, 3d emoji, on a sky blue background". '
        f"Backgrounds: {backgrounds}; white when none is named. "
        f'"small", "on the left", "on the right" and "a cat and a red apple" were in the captions too. '
        f"At most {recipe.text.max_tokens - 2} words and marks are read."
    )


def _data(recipe: PretrainRecipe) -> str:
    data = recipe.data
    return (
        f"## Data and licences\n\n"
        f"- Pictures: npm `{data.pictures_package}` {data.pictures_version} (MIT): "
        f"Fluent Emoji by Microsoft (MIT), 3D style.\n"
        f"- Labels and tags: npm `{data.labels_package}` {data.labels_version} (MIT).\n"
        f"- These weights: the licence of the project, with the notices of the data above."
    )


def _training(recipe: PretrainRecipe, step: int) -> str:
    coder, noise = recipe.autoencoder, recipe.denoiser
    return (
        f"## Recipe\n\n`python -m training.pretrain --recipe configs/training/pretrain-{recipe.id}.yaml` fetches the "
        f"data, trains and exports; it resumes after a kill. `training.json` beside this card holds the recipe of the "
        f"weights.\n\n"
        f"- Autoencoder: channels {list(coder.channels)}, {coder.latent_channels} latent channels, 8 times smaller; "
        f"trained on crops of {coder.crop_px}x{coder.crop_px}, then on whole pictures; latents brought to zero mean "
        f"and unit spread within the 1x1 convolutions around them.\n"
        f"- Text: CLIP encoder of width {recipe.text.width} with {recipe.text.layers} layers, trained together with "
        f"the UNet; its vocabulary is made from the captions.\n"
        f"- UNet: channels {list(noise.channels)}, v-prediction, {step} steps of {noise.batch} cached latents, "
        f"weights averaged over steps; Muon for hidden weights, AdamW for the others."
        + "".join(f"\n- {note}" for note in recipe.notes)
    )


def _list_subjects(subjects: list[Subject]) -> str:
    ordered = sorted(subjects, key=lambda subject: subject.subgroup)
    lines = [
        f"- {subgroup}: {', '.join(subject.label for subject in group)}"
        for subgroup, group in groupby(ordered, key=lambda subject: subject.subgroup)
    ]
    return f"## Subjects ({len(subjects)})\n\n" + "\n".join(lines)
