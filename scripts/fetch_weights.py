#!/usr/bin/env python3
"""Downloads or checks a model's weights ahead of time, so that the first start need not wait. Starts no server."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from configs.settings import Settings, SettingsError, load_settings
from models.catalog import get_model, load_catalog
from models.errors import ModelError
from models.folder import check_family, check_folder, weight_files
from models.hub import download
from models.spec import ModelSpec
from models.weights import hold, verified_hash


def main(
    model: Annotated[list[str], typer.Option(help="Catalogue id, such as sdxl; may be given more than once.")],
    to: Annotated[
        Path | None,
        typer.Option(help="Put hub weights into DIR/<id> instead of the server's cache, to carry them elsewhere."),
    ] = None,
) -> None:
    """Fetch the weights of each MODEL, check that they are safe to load, and print their folder and hash."""
    try:
        settings = load_settings()
        catalog = load_catalog()
        for model_id in model:
            fetch(get_model(catalog, model_id), settings, to)
    except (SettingsError, ModelError) as error:
        typer.echo(f"fetch_weights: {error}", err=True)
        sys.exit(1)


def fetch(spec: ModelSpec, settings: Settings, to: Path | None) -> None:
    if to is not None and spec.source.hub is not None:
        folder = (to / spec.id).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        download(spec, folder)
        check_family(check_folder(folder), spec.family, where=str(folder))
        report(spec, folder, "")
        typer.echo(f"to use it, put this into the configuration:\nmodels:\n  dirs:\n    {spec.id}: {folder}")
        return
    with hold(spec, settings.models, settings.state_dir) as held:
        check_family(check_folder(held.folder), spec.family, where=str(held.folder))
        report(spec, held.folder, verified_hash(spec, held, settings.state_dir))


def report(spec: ModelSpec, folder: Path, digest: str) -> None:
    num_bytes = sum(path.stat().st_size for path in weight_files(folder))
    typer.echo(
        f"{spec.id}: {folder} ({num_bytes / 1e6:,.0f} MB of safetensors{', sha256 ' + digest if digest else ''})"
    )


if __name__ == "__main__":
    typer.run(main)
