"""`python -m training.pretrain --recipe FILE`: makes the embedded model, or exports what there is so far."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from training.pretrain.recipe import read_recipe
from training.pretrain.run import export_now, pretrain


def main(
    recipe: Annotated[Path, typer.Option(help="the recipe file")],
    cache: Annotated[Path | None, typer.Option(help="data and checkpoints; .darkroom/pretrain/<id> by default")] = None,
    output: Annotated[Path | None, typer.Option(help="model folder; models/embedded/<id> by default")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto")] = "auto",
    only_export: Annotated[
        bool,
        typer.Option("--export-now", help="export the newest checkpoints and stop; a training may go on meanwhile"),
    ] = False,
) -> None:
    """Fetch, select, train and export. Run it again after a kill: every stage goes on where it stopped."""
    wanted = read_recipe(recipe)
    torch.set_num_threads(wanted.threads)
    folder = cache or Path(".darkroom/pretrain") / wanted.id
    target = output or Path("models/embedded") / wanted.id
    target.parent.mkdir(parents=True, exist_ok=True)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    step = export_now if only_export else pretrain
    typer.echo(f"Model written to {step(wanted, folder, target, torch.device(device))}")


if __name__ == "__main__":
    typer.run(main)
