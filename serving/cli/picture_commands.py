"""`darkroom generate` and `darkroom edit`: their options, which are mostly the same, and the order made of them."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from serving.cli.loras import parse_loras
from serving.cli.options import Key, Url, connect, tells_errors
from serving.cli.pictures import EditOrder, PictureOrder, edit_picture, make_pictures
from serving.cli.render import job_progress
from serving.cli.serve import PICTURES_DIR

TIMEOUT_S = 1800.0


def _finite(value: float | None) -> float | None:
    # JSON has no word for the others.
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


Prompt = Annotated[str, typer.Argument(help="What the picture shows.")]
Model = Annotated[str | None, typer.Option(help="Model id; see `darkroom models`.")]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Such as 512x512.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(callback=_finite, help="How closely to follow the prompt.")]
Scheduler = Annotated[str | None, typer.Option(help="Such as euler, ddim or dpm++2m-karras.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same picture.")]
Negative = Annotated[str | None, typer.Option(help="What to keep out of the picture.")]
Lora = Annotated[list[str] | None, typer.Option(metavar="NAME[@V][:SCALE]", help="Use an adapter; repeat for more.")]
Count = Annotated[int | None, typer.Option("--n", "-n", help="How many pictures.")]
Format = Annotated[Literal["png", "jpeg", "webp"] | None, typer.Option("--format", help="File format.")]
Out = Annotated[Path, typer.Option(help="Folder for the pictures.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for the job.")]

pictures_app = typer.Typer()


@pictures_app.command()
@tells_errors
def generate(
    ctx: typer.Context,
    prompt: Prompt,
    model: Model = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    seed: Seed = None,
    negative: Negative = None,
    lora: Lora = None,
    n: Count = None,
    output_format: Format = None,
    out: Out = PICTURES_DIR,
    timeout_s: Timeout = TIMEOUT_S,
    url: Url = None,
    key: Key = None,
) -> None:
    """Make pictures; prints the path of each."""
    order = PictureOrder(
        prompt=prompt,
        model=model,
        size=size,
        num_inference_steps=steps,
        guidance_scale=guidance,
        scheduler=scheduler,
        seed=seed,
        negative_prompt=negative,
        loras=parse_loras(lora),
        n=n,
        output_format=output_format,
    )
    with connect(ctx, url, key) as client, job_progress() as watch:
        paths = make_pictures(client, order, out=out, timeout_s=timeout_s, watch=watch)
    _print(paths)


@pictures_app.command()
@tells_errors
def edit(
    ctx: typer.Context,
    image: Annotated[Path, typer.Argument(help="The picture to change: PNG, JPEG or WebP.")],
    prompt: Prompt,
    mask: Annotated[
        Path | None, typer.Option(help="A picture as large; where it is transparent is painted anew.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(callback=_finite, help="How much may change: above 0, at most 1.")
    ] = None,
    model: Model = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    seed: Seed = None,
    negative: Negative = None,
    lora: Lora = None,
    n: Count = None,
    output_format: Format = None,
    out: Out = PICTURES_DIR,
    timeout_s: Timeout = TIMEOUT_S,
    url: Url = None,
    key: Key = None,
) -> None:
    """Change a picture, all of it or where a mask allows; prints the path of each result."""
    order = EditOrder(
        prompt=prompt,
        model=model,
        size=size,
        num_inference_steps=steps,
        guidance_scale=guidance,
        scheduler=scheduler,
        seed=seed,
        negative_prompt=negative,
        loras=parse_loras(lora),
        n=n,
        output_format=output_format,
        strength=strength,
    )
    files = {"image": image} | ({"mask": mask} if mask else {})
    with connect(ctx, url, key) as client, job_progress() as watch:
        paths = edit_picture(client, order, files, out=out, timeout_s=timeout_s, watch=watch)
    _print(paths)


def _print(paths: list[Path]) -> None:
    for path in paths:
        typer.echo(str(path))
