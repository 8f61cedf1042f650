"""`darkroom train`: videos and pictures in, a LoRA out that the next picture can use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serving.cli.client import Client, Lost, Refused
from serving.cli.following import follow_closely
from serving.cli.options import Key, Url, connect, tells_errors
from serving.cli.pictures import await_result, keep
from serving.cli.render import bytes_in_words, say, show_fields, time_in_words, training_progress
from serving.cli.uploads import purpose_of, upload

TIMEOUT_S = 43_200.0
ESTIMATE_TIMEOUT_S = 180.0  # for the first one of a model steps are taken and timed

trainings_app = typer.Typer()


@trainings_app.command()
@tells_errors
def train(
    ctx: typer.Context,
    name: Annotated[str, typer.Option(help="What to call it: 1 to 64 of a-z, 0-9, - and _.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE…]", help="Videos and pictures.")] = None,
    trigger: Annotated[str | None, typer.Option(help="The words that will call for it; default: its name.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The model to train for; see `darkroom models`.")] = None,
    recipe: Annotated[str | None, typer.Option(help="How: subject, style, or another of the server's.")] = None,
    steps: Annotated[int | None, typer.Option(help="At most so many; it stops when it gets no better.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of the matrices.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of a square, in pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same LoRA.")] = None,
    caption: Annotated[
        Literal["template", "model", "none"] | None, typer.Option(help="What is said of each picture.")
    ] = None,
    from_job: Annotated[
        str | None, typer.Option(metavar="JOB", help="Train on the dataset of an earlier training, without files.")
    ] = None,
    caption_file: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TEXT", help="With --from-job: say this of that picture; repeat for more."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for samples and the plot of the loss.")] = None,
    wait: Annotated[bool, typer.Option(help="Stay until it is done; else print the job's id.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for the job.")] = TIMEOUT_S,
    url: Url = None,
    key: Key = None,
) -> None:
    """Train a LoRA on videos and pictures; prints what came of it."""
    wanted: dict[str, Any] = {
        "name": name,
        "trigger": trigger,
        "base_model": base_model,
        "recipe": recipe,
        "steps": steps,
        "rank": rank,
        "resolution": resolution,
        "seed": seed,
        "caption": caption,
        "from_job": from_job,
        "captions": parse_captions(caption_file),
    }
    body = {field: value for field, value in wanted.items() if value is not None}
    purposes = [(file, purpose_of(file)) for file in files or ()]  # before the first one is sent
    with connect(ctx, url, key) as client:
        with training_progress() as watch:
            if purposes:
                body["upload_ids"] = [upload(client, file, purpose, watch=watch) for file, purpose in purposes]
        _tell_estimate(client, body)
        job = client.post("/v1/loras/train", body)
        if not wait:
            typer.echo(str(job["id"]))
            return
        with training_progress() as watch:
            result = await_result(client, job, timeout_s=timeout_s, watch=watch, by=follow_closely)
        show_fields(_fields(result))
        if out is not None:
            _save(client, result, out)
    say(f'Use it: darkroom generate "{result["trigger"]}" --lora {name}')


def parse_captions(texts: list[str] | None) -> dict[str, str] | None:
    """NAME=TEXT each as the API takes them."""
    if not texts:
        return None
    captions: dict[str, str] = {}
    for text in texts:
        name, sign, said = text.partition("=")
        if not name or not sign:
            raise typer.BadParameter(f"{text!r} is not NAME=TEXT, such as 0003.png=a dog", param_hint="--caption-file")
        captions[name] = said
    return captions


def _tell_estimate(client: Client, body: Mapping[str, Any]) -> None:
    """How long it will take, where the server can tell; a body that it refuses ends here."""
    try:
        told = client.post("/v1/loras/estimate", body, timeout_s=ESTIMATE_TIMEOUT_S)
    except (Lost, Refused) as error:
        # Where a provider trains it, nobody here can tell.
        if isinstance(error, Refused) and error.status != 503 and error.code != "not_trainable":
            raise
        say(f"How long it will take is not known. {error}")
        return
    takes, of_it = time_in_words(told["time_s"]), time_in_words(told["frames_s"])
    say(
        f"It will take {takes} at most, {of_it} of it for stills, and {bytes_in_words(told['memory_bytes'])} of memory."
    )
    free_bytes = told["free_bytes"]
    if free_bytes is not None and free_bytes < told["memory_bytes"]:
        say(f"Only {bytes_in_words(free_bytes)} of memory are free there now.")


def _fields(result: Mapping[str, Any]) -> dict[str, object]:
    rejected = ", ".join(f"{number} {reason}" for reason, number in result["frames_rejected"].items())
    loss, quality = result["loss"], result["quality"] or {}
    fields: dict[str, object] = {
        "adapter": result["adapter"],
        "trigger": result["trigger"],
        "frames_used": result["frames_used"],
        "frames_rejected": rejected,
        "loss": _change(loss[0][1], loss[-1][1]) if loss else None,
    }
    for name, label in (("validation_loss", "held_out_loss"), ("distance", "held_out_distance")):
        before, after = quality.get(f"{name}_before"), quality.get(f"{name}_after")
        fields[label] = None if before is None or after is None else _change(before, after)
    return fields | {"best_step": quality.get("best_step"), "sha256": result["sha256"], "bytes": result["bytes"]}


def _change(before: float, after: float) -> str:
    share = f" ({after / before - 1:+.0%})" if before else ""
    return f"{before:.4f} → {after:.4f}{share}"


def _save(client: Client, result: Mapping[str, Any], out: Path) -> None:
    for sample in result["sample_details"]:
        keep(client, sample, out, f"step-{sample['step']:05d}-seed-{sample['seed']}")
    if result["loss_plot_url"]:
        keep(client, {"url": result["loss_plot_url"], "content_type": "image/png"}, out, "loss")
    say(f"{len(result['samples'])} samples are in {out}; those of step 0 are the base model's own.")
