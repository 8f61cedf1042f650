"""`darkroom loras`: bring adapters in, look at them, take them out, and name them for a picture."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serving.cli.client import Client, ClientError, segment
from serving.cli.options import Key, Url, connect, tells_errors
from serving.cli.render import say, show_fields, show_table, when

loras_app = typer.Typer(no_args_is_help=True, help="Adapters (LoRA): styles and subjects for a model.")

Reference = Annotated[str, typer.Argument(metavar="NAME[@V]", help="An adapter, or one version of it.")]


@loras_app.command("import")
@tells_errors
def import_lora(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A LoRA as safetensors: diffusers, PEFT, kohya or ComfyUI keys.")],
    name: Annotated[str, typer.Option(help="What to call it: 1 to 64 of a-z, 0-9, - and _.")],
    base_model: Annotated[str | None, typer.Option(help="The model it was made for; see `darkroom models`.")] = None,
    trigger: Annotated[str | None, typer.Option(help="The word that calls for it in a prompt.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Add a version of an adapter; prints its name@version. The same file again is the version it already is."""
    fields = {"name": name, "base_model": base_model, "trigger": trigger}
    with connect(ctx, url, key) as client:
        made = client.upload("/v1/loras/import", {"file": file}, {k: v for k, v in fields.items() if v is not None})
    say(f"{made['layers']} layers for {made['base_model']}, rank {made['max_rank']}, {made['format']} keys.")
    typer.echo(str(made["id"]))


@loras_app.command("list")
@tells_errors
def list_loras(ctx: typer.Context, url: Url = None, key: Key = None) -> None:
    """All adapters."""
    with connect(ctx, url, key) as client:
        data = client.get("/v1/loras")["data"]
    rows = [(a["latest"], len(a["versions"]), a["base_model"], a["trigger"], when(a["created_at"])) for a in data]
    show_table(("latest", "versions", "base model", "trigger", "created"), rows, empty="No adapters.")


@loras_app.command("show")
@tells_errors
def show_lora(ctx: typer.Context, reference: Reference, url: Url = None, key: Key = None) -> None:
    """One version in full; without @V the latest."""
    with connect(ctx, url, key) as client:
        version = _find(client, reference)
    fields = {name: value for name, value in version.items() if name not in {"object", "lineage", "metadata"}}
    fields["created_at"] = when(version["created_at"])
    fields["components"] = " ".join(version["components"])
    lineage = dict(version["lineage"])
    uploads = lineage.pop("uploads", None) or []
    fields |= {f"lineage.{name}": value for name, value in lineage.items()}
    fields |= {f"lineage.upload.{upload['id']}": _times(upload) for upload in uploads}
    show_fields(fields | {f"metadata.{name}": value for name, value in version["metadata"].items()})


@loras_app.command("delete")
@tells_errors
def delete_lora(ctx: typer.Context, reference: Reference, url: Url = None, key: Key = None) -> None:
    """Delete a version, or without @V all of them. Jobs that wait for it will fail."""
    name, version = _split(reference)
    path = f"/v1/loras/{segment(name)}" + ("" if version is None else f"/versions/{version}")
    with connect(ctx, url, key) as client:
        client.delete(path)
    say(f"{reference} is deleted.")


@loras_app.command("download")
@tells_errors
def download_lora(
    ctx: typer.Context,
    reference: Reference,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; it must not exist yet.")] = None,
    file_format: Annotated[
        Literal["diffusers", "kohya"] | None, typer.Option("--format", help="Naming of the keys; default: as it came.")
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Save the file of a version; without @V of the latest. Prints its path."""
    with connect(ctx, url, key) as client:
        version = _find(client, reference)
        name, number = version["name"], version["version"]
        address = client.locate(f"/v1/loras/{segment(name)}/versions/{number}/download", format=file_format)
        path = out or Path(f"{name}-v{number}{'.kohya' if file_format == 'kohya' else ''}.safetensors")
        sha256 = client.save(address, path)
    if file_format != "kohya" and sha256 != version["sha256"]:
        path.unlink()
        raise ClientError(f"The file arrived damaged: it does not have the hash {version['sha256']}.")
    typer.echo(str(path))


def parse_loras(texts: list[str] | None) -> list[dict[str, Any]] | None:
    """None when none is named: then the request does not speak of adapters."""
    return [parse_lora(text) for text in texts] if texts else None


def parse_lora(text: str) -> dict[str, Any]:
    """NAME[@V][:SCALE] as the API takes it."""
    name, colon, scale = text.partition(":")
    if not colon:
        return {"name": name}
    try:
        number = float(scale)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not NAME[@V][:SCALE], such as style@2:0.8", param_hint="--lora")
    return {"name": name, "scale": number}


def _times(upload: dict[str, Any]) -> str:
    """What it is, and which moments of it were learned from."""
    times = " ".join(f"{time_s:.2f}" for time_s in upload["times_s"])
    return f"{upload['kind']}, stills at {times} s" if times else str(upload["kind"])


def _find(client: Client, reference: str) -> dict[str, Any]:
    name, version = _split(reference)
    lora = client.get(f"/v1/loras/{segment(name)}")
    wanted = lora["latest"] if version is None else reference
    for found in lora["versions"]:
        if found["id"] == wanted:
            return dict(found)
    raise ClientError(f"No adapter {reference!r}; there is {', '.join(v['id'] for v in lora['versions'])}.")


def _split(reference: str) -> tuple[str, int | None]:
    name, at, version = reference.partition("@")
    if not at:
        return name, None
    if not (version.isascii() and version.isdigit()):
        raise typer.BadParameter(f"{reference!r} is not NAME[@V], such as style@2")
    return name, int(version)
