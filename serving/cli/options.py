"""What all commands share: where the server is and the key for it, and every foreseen error as one line on stderr."""

import functools
from collections.abc import Callable
from typing import Annotated, ParamSpec

import httpx
import typer

from configs.settings import SettingsError
from models.errors import CatalogError, UnknownModel
from serving.cli.client import Client, ClientError, find_connection
from serving.cli.pictures import StillRunning
from serving.cli.render import say

P = ParamSpec("P")

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

Url = Annotated[
    str | None, typer.Option("--url", envvar="DARKROOM_URL", help="Address of the API; default: this machine's.")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="DARKROOM_API_KEY",
        show_envvar=True,
        help="API key; default: the admin key in the state folder.",
    ),
]


def tells_errors(command: Callable[P, None]) -> Callable[P, None]:
    """What was foreseen is told in one line, with its exit code; anything else is a bug and keeps its trace."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (SettingsError, CatalogError, UnknownModel) as error:
            say(str(error))
            raise typer.Exit(EXIT_USAGE) from error
        except StillRunning as error:
            say(str(error))
            raise typer.Exit(
                EXIT_INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else EXIT_FAILED
            ) from error
        except ClientError as error:
            say(str(error))
            raise typer.Exit(EXIT_FAILED) from error

    return wrapper


def connect(ctx: typer.Context, url: str | None, key: str | None) -> Client:
    """The client for this call; tests hand their transport over as the context's object."""
    transport = ctx.obj if isinstance(ctx.obj, httpx.BaseTransport) else None
    return Client(find_connection(url, key), transport=transport)
