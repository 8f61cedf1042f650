#!/usr/bin/env python3
"""Replaces every replica of a running Darkroom without refusing a request, and tells how it went."""

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from configs.settings import SettingsError, load_settings
from serving.embedded.state import RollRecord, StateDir

POLL_S = 0.5


class RollProblem(Exception):
    """There is no server to restart, or it could not replace its replicas."""


def main(
    state_dir: Annotated[
        Path | None, typer.Option(help="Of the running server; default: that of the settings.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="A large model takes minutes to load.")] = 1_800.0,
) -> None:
    """Ask the `darkroom serve` on STATE_DIR to replace its Api, Router and Engine replicas, and wait until it has."""
    try:
        folder = state_dir.expanduser().resolve() if state_dir else load_settings().state_dir
        roll = restart(StateDir(folder), timeout_s=timeout_s)
    except (RollProblem, SettingsError) as problem:
        typer.echo(f"rolling_restart: {problem}", err=True)
        raise typer.Exit(1) from problem
    typer.echo(f"Every replica was replaced in {roll.took_s:.0f} s.")


def restart(state: StateDir, *, timeout_s: float) -> RollRecord:
    """Raises RollProblem."""
    supervisor_pid = state.holder()
    if supervisor_pid is None:
        raise RollProblem(f"no Darkroom runs on {state.path}")
    before = state.read_roll()
    try:
        os.kill(supervisor_pid, signal.SIGUSR1)
    except PermissionError as error:
        raise RollProblem(f"the Darkroom there (process {supervisor_pid}) belongs to another user") from error
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        roll = state.read_roll()
        if roll is not None and roll != before:
            if roll.problem is not None:
                raise RollProblem(f"the old replicas stay where they could not be replaced: {roll.problem}")
            return roll
        if state.holder() != supervisor_pid:
            raise RollProblem("Darkroom has ended meanwhile")
    raise RollProblem(f"not done after {timeout_s:.0f} s; it goes on, see the output of `darkroom serve`")


if __name__ == "__main__":
    typer.run(main)
