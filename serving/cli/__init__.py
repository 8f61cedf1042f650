"""The `darkroom` command: starts a server, and is an ordinary client of its HTTP API. Loads no torch and no Ray."""

from serving.cli.app import main

__all__ = ["main"]
