"""From the options of `darkroom serve` to Settings, and the first picture. Starts nothing itself."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.settings import Settings, SettingsError, load_settings
from models.catalog import load_catalog
from models.errors import UnknownModel
from serving.cli.client import Client, ClientError, Connection, admin_key
from serving.cli.pictures import PictureOrder, make_pictures
from serving.cli.render import job_progress, say

PICTURES_DIR = Path("pictures")
FIRST_PICTURE_TIMEOUT_S = 600.0


def build_settings(
    *,
    models: Sequence[str],
    model_dirs: Sequence[str],
    config: Path | None,
    host: str | None,
    port: int | None,
    state_dir: Path | None,
    env: Mapping[str, str] | None = None,
) -> Settings:
    """Options over variables over the file over the defaults. Raises SettingsError, or UnknownModel for a wrong id."""
    given: dict[str, Any] = {"host": host, "port": port, "state_dir": state_dir}
    overrides = {name: value for name, value in given.items() if value is not None}
    chosen: dict[str, Any] = {}
    if models:
        # A default named by the file need not be among the models chosen here; the first of them takes its place.
        chosen |= {"enabled": list(dict.fromkeys(models)), "default_image": None}
    if model_dirs:
        chosen["dirs"] = dict(_split_dir(text) for text in model_dirs)
    if chosen:
        overrides["models"] = chosen
    variables = dict(os.environ if env is None else env)
    if config is not None:
        variables["DARKROOM_CONFIG"] = str(config)
    settings = load_settings(variables, overrides=overrides)
    known = load_catalog()
    for model_id in (*settings.models.enabled, *settings.models.dirs):
        if model_id not in known:
            raise UnknownModel(model_id, list(known))
    return settings


def first_picture(settings: Settings, prompt: str) -> Callable[[], None]:
    """What the supervisor calls once the server is ready: a picture through the public API, like any client's."""

    def make() -> None:
        key = admin_key(settings)
        # Straight to the port: a public address may lead through a proxy that is not up yet.
        host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host
        connection = Connection(f"http://{host}:{settings.port}", key, f"It is read from {settings.state_dir}.")
        try:
            with Client(connection) as client, job_progress() as watch:
                paths = make_pictures(
                    client,
                    PictureOrder(prompt=prompt),
                    out=PICTURES_DIR,
                    timeout_s=FIRST_PICTURE_TIMEOUT_S,
                    watch=watch,
                )
        except ClientError as error:
            # The server is up and of use without it, so this is no reason to stop.
            say(f"The first picture could not be made: {error}")
            return
        for path in paths:
            say(f"First picture: {path.resolve()}")

    return make


def _split_dir(text: str) -> tuple[str, str]:
    model_id, separator, folder = text.partition("=")
    if not (separator and model_id and folder):
        raise SettingsError(f"--model-dir {text!r}: expected MODEL=FOLDER, such as sdxl=/data/sdxl")
    return model_id, folder
