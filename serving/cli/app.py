"""The commands and their options. Each parses, calls and shows; what goes wrong becomes one line on stderr."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from serving.cli.client import segment
from serving.cli.frames import frames_app
from serving.cli.job_commands import jobs_app
from serving.cli.loras import loras_app
from serving.cli.moderation import moderation_app
from serving.cli.options import Key, Url, connect, tells_errors
from serving.cli.picture_commands import pictures_app
from serving.cli.render import say, show_table, when
from serving.cli.serve import build_settings, first_picture
from serving.cli.tenants import tenants_app
from serving.cli.trainings import trainings_app
from serving.cli.upload_commands import uploads_app
from serving.embedded import supervisor

Tenant = Annotated[str | None, typer.Option(help="Whose; default: the tenant of your own key.")]
app = typer.Typer(
    name="darkroom",
    no_args_is_help=True,
    add_completion=False,
    help="Self-hosted inference for generative media.",
    pretty_exceptions_show_locals=False,  # locals hold keys
)
keys_app = typer.Typer(no_args_is_help=True, help="API keys (needs an admin key).")
app.add_typer(pictures_app)  # without a name: its commands are ours
app.add_typer(frames_app)
app.add_typer(trainings_app)
app.add_typer(jobs_app)
app.add_typer(moderation_app)
app.add_typer(uploads_app, name="uploads")
app.add_typer(loras_app, name="loras")
app.add_typer(keys_app, name="keys")
app.add_typer(tenants_app, name="tenants")


def main() -> None:
    """Entry point of the `darkroom` command."""
    app()


@app.command()
@tells_errors
def serve(
    model: Annotated[list[str] | None, typer.Option(help="Catalogue id to serve; repeat for more.")] = None,
    model_dir: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=FOLDER", help="Load a model from a local diffusers folder.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML over the defaults, such as configs/gpu.yaml.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Databases, keys and caches.")] = None,
    first: Annotated[
        str | None, typer.Option("--first-picture", metavar="PROMPT", help="Make this picture once ready.")
    ] = None,
) -> None:
    """Start Darkroom and all it needs; Ctrl-C ends it."""
    settings = build_settings(
        models=model or (), model_dirs=model_dir or (), config=config, host=host, port=port, state_dir=state_dir
    )
    picture = first_picture(settings, first) if first else None
    raise typer.Exit(supervisor.run(settings, first_picture=picture))


@app.command()
@tells_errors
def models(ctx: typer.Context, url: Url = None, key: Key = None) -> None:
    """The models this server can use."""
    with connect(ctx, url, key) as client:
        data = client.get("/v1/models")["data"]
    rows = [(m["id"], m["kind"], m["family"], m["ready"], m.get("license"), " ".join(m.get("sizes", ()))) for m in data]
    show_table(("id", "kind", "family", "ready", "license", "sizes"), rows, empty="This server has no models.")


@keys_app.command("list")
@tells_errors
def list_keys(ctx: typer.Context, tenant: Tenant = None, url: Url = None, key: Key = None) -> None:
    """All API keys of the tenant; of each key only its last four characters are known."""
    with connect(ctx, url, key) as client:
        data = client.get("/v1/admin/keys", tenant=tenant)["data"]
    rows = [
        (
            k["id"],
            k.get("name"),
            k.get("role"),
            k.get("tenant"),
            f"…{k.get('last_four', '')}",
            when(k.get("created_at")),
        )
        for k in data
    ]
    show_table(("id", "name", "role", "tenant", "key", "created"), rows, empty="No keys.")


@keys_app.command("create")
@tells_errors
def create_key(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Who or what will use it.")],
    role: Annotated[Literal["member", "admin"], typer.Option(help="admin may manage keys and tenants.")] = "member",
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Make an API key; it is printed once, alone on stdout, and cannot be shown again."""
    body = {"name": name, "role": role} | ({"tenant": tenant} if tenant else {})
    with connect(ctx, url, key) as client:
        made = client.post("/v1/admin/keys", body)
    say(f"Key {made['id']} ({made['role']} of tenant {made['tenant']}). Keep it: it cannot be shown again.")
    typer.echo(str(made["key"]))


@keys_app.command("revoke")
@tells_errors
def revoke_key(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `darkroom keys list` shows it.")],
    tenant: Tenant = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """End an API key."""
    with connect(ctx, url, key) as client:
        client.delete(f"/v1/admin/keys/{segment(key_id)}", tenant=tenant)
    say(f"Key {key_id} is revoked.")
