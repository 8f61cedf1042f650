"""`darkroom serve`: starts the children, deploys, watches, and leaves nothing behind. Knows no request and no model."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import httpx

from configs.settings import Settings
from serving.embedded import sweeper
from serving.embedded.children import Child, rotate_log
from serving.embedded.deployment import Deployment
from serving.embedded.plan import Plan, admin_key_path, deployer_command, effective_settings, make_plan
from serving.embedded.ports import check_api_address
from serving.embedded.problem import PART_FAILED, StartupProblem
from serving.embedded.screen import Screen
from serving.embedded.state import RunFile, StateDir

__all__ = ["FirstPicture", "effective_settings", "run"]

FirstPicture = Callable[[], object]

START_POLL_S = 0.5


def run(
    settings: Settings,
    *,
    first_picture: FirstPicture | None = None,
    deployer: tuple[str, ...] | None = None,
    screen: Screen | None = None,
) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code. `deployer` is the program that puts the API onto Ray."""
    screen = screen or Screen()
    state = StateDir(settings.state_dir)
    try:
        code = _serve_on(settings, state, screen, first_picture, deployer or deployer_command())
        if code != PART_FAILED:
            state.remove_run_dir()
        return code
    finally:
        state.release()


def _serve_on(
    settings: Settings,
    state: StateDir,
    screen: Screen,
    first_picture: FirstPicture | None,
    deployer: tuple[str, ...],
) -> int:
    try:
        if sys.platform != "linux":
            raise StartupProblem(f"`darkroom serve` runs on Linux; this is {sys.platform}.")
        state.hold()
        if found := sweeper.sweep_predecessor(state):
            screen.notice(found)
        check_api_address(settings.host, settings.port)
        asyncio.run(_serve(settings, state, screen, first_picture, deployer))
    except StartupProblem as problem:
        screen.problem(str(problem))
        return problem.exit_code
    return 0


async def _serve(
    settings: Settings,
    state: StateDir,
    screen: Screen,
    first_picture: FirstPicture | None,
    deployer: tuple[str, ...],
) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        plan = make_plan(settings, state, client)

        def on_ready() -> None:
            screen.banner(
                plan.settings,
                dashboard_url=plan.dashboard_url,
                token_path=state.ray_token(),
                key_path=admin_key_path(settings),
            )
            if first_picture is not None:
                _run_beside(first_picture, screen)

        supervisor = Supervisor(plan, screen, client, deployer)
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, supervisor.request_stop)
        loop.add_signal_handler(signal.SIGUSR1, supervisor.request_roll)
        try:
            await supervisor.until_stopped(supervisor.serve(on_ready))
        finally:
            await supervisor.stop()


class Supervisor:
    """Owns every child of one run, from the first start to the last process."""

    def __init__(self, plan: Plan, screen: Screen, client: httpx.AsyncClient, deployer: tuple[str, ...]) -> None:
        self._plan = plan
        self._screen = screen
        self._run = RunFile(plan.state)
        self._deployment = Deployment(plan, self._run, screen, client, deployer)
        self._children = [Child(spec, run=self._run, notice=screen.notice) for spec in plan.children]
        self._sweeper: asyncio.subprocess.Process | None = None
        self._stop_requested = asyncio.Event()
        self._hurry = asyncio.Event()

    def request_stop(self) -> None:
        """The first call ends the run in order, the second at once."""
        if self._stop_requested.is_set():
            self._hurry.set()
        self._stop_requested.set()

    def request_roll(self) -> None:
        """A rolling restart, once the server is up."""
        self._deployment.request_roll()

    async def serve(self, on_ready: Callable[[], None]) -> None:
        """Brings everything up, says so, and keeps it alive; ends only by StartupProblem or by being cancelled."""
        await self._start_sweeper()
        self._screen.stage(f"Starting {', '.join(_title(child) for child in self._children)}")
        await self._start_children()
        try:
            async with asyncio.TaskGroup() as group:
                for child in self._children:
                    group.create_task(child.keep())
                group.create_task(self._keep_sweeper())
                group.create_task(self._run_application(on_ready))
        except BaseExceptionGroup as errors:
            if (problems := errors.subgroup(StartupProblem)) is not None:
                raise problems.exceptions[0] from None
            raise

    async def until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` until it ends or a stop is requested and the server drained; what it raises is raised here."""
        task = asyncio.create_task(work)
        await _beside(task, self._stop_requested.wait())
        if not task.done():
            await _beside(task, self._drain())
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    async def _drain(self) -> None:
        """Lets what runs come to its end; a second Ctrl-C cuts it short."""
        hurry = asyncio.create_task(self._hurry.wait())
        await _beside(hurry, self._deployment.drain())
        hurry.cancel()

    async def stop(self) -> None:
        """Ray first, for it uses the others; then the stores; then the sweep. A second Ctrl-C cuts it short."""
        self._screen.stage("Stopping")
        orderly = asyncio.create_task(self._stop_in_order())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({orderly, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        grace_s = sweeper.GRACE_S
        if not orderly.done():
            orderly.cancel()
            grace_s = 0.0
        await asyncio.gather(orderly, return_exceptions=True)
        await asyncio.to_thread(sweeper.sweep_run, self._run.record, grace_s=grace_s)
        await self._dismiss_sweeper()
        self._run.close()
        self._screen.stage("Stopped; nothing is left running")

    async def _start_sweeper(self) -> None:
        self._sweeper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serving.embedded.sweeper"),
            *("--state-dir", str(self._plan.state.path), "--run-id", self._run.run_id),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=dict(os.environ),
            start_new_session=True,
        )

    async def _start_children(self) -> None:
        for path in self._plan.state.logs_dir.glob("*.log"):
            rotate_log(path)
        starts = {asyncio.create_task(child.start()): _title(child) for child in self._children}
        try:
            pending = set(starts)
            while pending:
                names = sorted(starts[task] for task in pending)
                self._screen.waiting(f"waiting for {', '.join(names)}")
                done, pending = await asyncio.wait(pending, timeout=START_POLL_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in starts:
                task.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def _run_application(self, on_ready: Callable[[], None]) -> None:
        await self._deployment.bring_up(on_ready)
        ray = next(child for child in self._children if child.spec.name == "ray")
        await asyncio.gather(self._deployment.keep(ray), self._deployment.keep_rolling())

    async def _keep_sweeper(self) -> None:
        while True:
            assert self._sweeper is not None, "serve() starts it first"
            await self._sweeper.wait()
            await asyncio.sleep(1.0)
            await self._start_sweeper()

    async def _stop_in_order(self) -> None:
        ray = [child for child in self._children if child.spec.name == "ray"]
        stores = [child for child in self._children if child.spec.name != "ray"]
        for group in (ray, stores):
            await asyncio.gather(*(child.stop() for child in group))

    async def _dismiss_sweeper(self) -> None:
        if self._sweeper is None:
            return
        try:
            await self._sweeper.communicate(sweeper.FAREWELL)
        except (BrokenPipeError, ConnectionResetError):
            await self._sweeper.wait()


async def _beside(task: "asyncio.Task[Any]", work: Coroutine[Any, Any, Any]) -> None:
    """Runs `work` until it ends, and no longer than `task`; what `work` raises is raised here."""
    beside = asyncio.create_task(work)
    await asyncio.wait({task, beside}, return_when=asyncio.FIRST_COMPLETED)
    beside.cancel()
    await asyncio.wait({beside})
    if not beside.cancelled():
        beside.result()


def _run_beside(first_picture: FirstPicture, screen: Screen) -> None:
    """In a daemon thread: a stop must not wait for a picture."""

    def make() -> None:
        try:
            first_picture()
        except OSError as error:
            screen.notice(f"The first picture could not be saved: {error}")

    threading.Thread(target=make, name="first-picture", daemon=True).start()


def _title(child: Child) -> str:
    return {"mongo": "MongoDB", "s3": "S3", "ray": "Ray"}[child.spec.name]
