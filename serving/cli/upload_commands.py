"""`darkroom uploads`: bring pictures and videos in, look at what is there, and delete it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serving.cli.client import segment
from serving.cli.options import Key, Url, connect, tells_errors
from serving.cli.render import job_progress, say, show_fields, show_table, when
from serving.cli.uploads import purpose_of, upload

uploads_app = typer.Typer(no_args_is_help=True, help="Pictures and videos that something is made of.")

UploadId = Annotated[str, typer.Argument(metavar="ID", help="As `darkroom uploads list` shows it.")]
MAX_PAGE = 100


@uploads_app.command("add")
@tells_errors
def add_upload(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A picture (JPEG, PNG, WebP) or a video.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Send a file and have it checked; prints its id. A large one goes in parts, and only what is missing again."""
    with connect(ctx, url, key) as client, job_progress() as watch:
        upload_id = upload(client, file, purpose_of(file), watch=watch)
    typer.echo(upload_id)


@uploads_app.command("list")
@tells_errors
def list_uploads(
    ctx: typer.Context,
    purpose: Annotated[Literal["image", "video"] | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="How many.")] = 20,
    url: Url = None,
    key: Key = None,
) -> None:
    """The newest uploads."""
    with connect(ctx, url, key) as client:
        data = client.get("/v1/uploads", purpose=purpose, limit=limit)["data"]
    rows = [
        (u["id"], u["purpose"], u["status"], u["bytes"], when(u["created_at"]), _size(u["media"]), u["filename"])
        for u in data
    ]
    show_table(("id", "purpose", "status", "bytes", "created", "size", "name"), rows, empty="No uploads.")


@uploads_app.command("show")
@tells_errors
def show_upload(ctx: typer.Context, upload_id: UploadId, url: Url = None, key: Key = None) -> None:
    """One upload in full, with URLs to read it from."""
    with connect(ctx, url, key) as client:
        told = client.get(f"/v1/uploads/{segment(upload_id)}")
    fields = {name: value for name, value in told.items() if name not in {"object", "media", "error", "headers"}}
    fields |= {f"media.{name}": value for name, value in (told["media"] or {}).items()}
    if told["error"]:
        fields["error"] = f"{told['error']['code']}: {told['error']['message']}"
    show_fields(fields | {name: when(fields[name]) for name in ("created_at", "expires_at", "forgotten_at")})


@uploads_app.command("delete")
@tells_errors
def delete_upload(ctx: typer.Context, upload_id: UploadId, url: Url = None, key: Key = None) -> None:
    """Delete an upload; prints what was made from it, which stays."""
    with connect(ctx, url, key) as client:
        told = client.delete(f"/v1/uploads/{segment(upload_id)}")
    show_table(("kind", "id"), [(d["kind"], d["id"]) for d in told["derived"]], empty="Nothing was made from it.")
    say(f"{upload_id} is deleted.")


def _size(media: dict[str, Any] | None) -> str:
    if media is None:
        return ""
    seconds = f", {media['duration_s']:.1f} s" if media.get("duration_s") else ""
    return f"{media['width']}x{media['height']}{seconds}"
