"""One supervised program: started in a session of its own, waited for, probed, started again when it dies, stopped."""

import asyncio
import os
import signal
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.embedded import sweeper
from serving.embedded.problem import PART_FAILED, StartupProblem
from serving.embedded.state import RunFile

LOG_ROTATE_BYTES = 10_000_000
TETHER = Path(__file__).with_name("tether.py")
# A child that lived this long had started well; its next death is news, not a continuation.
SETTLED_S = 60.0
# Never rarer than every 10 s: after a disk was full, or a machine out of memory, the wait is time without a server.
BACKOFF_S = (0.2, 1.0, 2.0, 5.0, 10.0)
READY_POLL_S = 0.2

Notice = Callable[[str], None]


@dataclass(frozen=True)
class ChildSpec:
    """What to run, and how to tell that it runs well."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log_path: Path
    is_ready: Callable[[], Awaitable[bool]]
    is_alive: Callable[[], Awaitable[bool]]
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 15.0
    probe_period_s: float = 5.0
    # A machine that is busy for a while must not have its database shot.
    num_missed_probes: int = 6
    # For a server that calls itself ready a moment before it is.
    settle_s: float = 0.0


class Child:
    """A running ChildSpec; `keep` restarts it for ever."""

    def __init__(self, spec: ChildSpec, *, run: RunFile, notice: Notice) -> None:
        self.spec = spec
        self.num_restarts = 0
        self.ready_since_s: float | None = None  # time.monotonic(); None while it starts
        self._run = run
        self._run_id = f"{run.run_id}.{spec.name}"
        self._notice = notice
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts it and waits until it is ready. Raises StartupProblem if it dies or takes too long."""
        try:
            self._process = await spawn(self.spec.command, self.spec.env, self.spec.log_path, run_id=self._run_id)
        except OSError as error:  # a full disk has no room for the log
            raise StartupProblem(f"{self.spec.name} could not be started: {error}", exit_code=PART_FAILED) from error
        self._run.add_session(self._process.pid)
        deadline_s = time.monotonic() + self.spec.ready_timeout_s
        while not await self.spec.is_ready():
            if self._process.returncode is not None:
                raise StartupProblem(
                    self._say(f"{how_it_ended(self._process.returncode)} while starting"), exit_code=PART_FAILED
                )
            if time.monotonic() > deadline_s:
                raise StartupProblem(
                    self._say(f"was not ready after {self.spec.ready_timeout_s:.0f} s"), exit_code=PART_FAILED
                )
            await asyncio.sleep(READY_POLL_S)
        await asyncio.sleep(self.spec.settle_s)
        self.ready_since_s = time.monotonic()

    async def keep(self) -> None:
        """Waits for its death or silence and starts it again, for ever."""
        num_deaths = 0
        while True:
            reason = await self._wait_for_trouble()
            settled = self.ready_since_s is not None and time.monotonic() - self.ready_since_s > SETTLED_S
            self.ready_since_s = None
            num_deaths = 1 if settled else num_deaths + 1
            self._notice(f"{self.spec.name} {reason}; starting it again")
            await self.clear()
            await asyncio.sleep(BACKOFF_S[min(num_deaths, len(BACKOFF_S)) - 1])
            self.num_restarts += 1
            try:
                await self.start()
            except StartupProblem as problem:
                self._notice(str(problem).splitlines()[0])
            else:
                self._notice(f"{self.spec.name} is back")

    async def stop(self, *, timeout_s: float | None = None) -> None:
        """SIGTERM, SIGKILL after its deadline, then whatever it had started itself."""
        process = self._process
        if process is not None and process.returncode is None:
            send(process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(self.spec.stop_timeout_s if timeout_s is None else timeout_s):
                    await process.wait()
            except TimeoutError:
                self._notice(f"{self.spec.name} did not stop in time; killing it")
        await self.clear()

    async def clear(self) -> None:
        """Kills the child if it still runs and all that it left behind, such as a proxy that holds its port."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            send(process.pid, signal.SIGKILL)
            await process.wait()
        await asyncio.to_thread(sweeper.end_processes, self._run_id, [process.pid], grace_s=1.0)
        self._run.drop_session(process.pid)

    async def _wait_for_trouble(self) -> str:
        process = self._process
        assert process is not None, "keep() follows start()"
        if self.ready_since_s is None:
            return "is not ready"
        missed = 0
        while True:
            try:
                async with asyncio.timeout(self.spec.probe_period_s):
                    code = await process.wait()
                return how_it_ended(code)
            except TimeoutError:
                missed = 0 if await self.spec.is_alive() else missed + 1
                if missed >= self.spec.num_missed_probes:
                    return f"has not answered for {missed * self.spec.probe_period_s:.0f} s"

    def _say(self, what: str) -> str:
        return f"{self.spec.name} {what}. The end of {self.spec.log_path}:\n{log_tail(self.spec.log_path)}"


async def spawn(
    command: tuple[str, ...], env: Mapping[str, str], log_path: Path, *, run_id: str
) -> asyncio.subprocess.Process:
    """Starts a program that ends with us, out of reach of the terminal's Ctrl-C, its output appended to `log_path`."""
    tethered = (sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command)
    with log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *tethered,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**env, sweeper.RUN_ID_ENV: run_id},
            start_new_session=True,
        )


def how_it_ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def inherited_environment() -> dict[str, str]:
    """Our environment without what would steer children past the supervisor's own choices."""
    dropped = {"RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_NAMESPACE", "RAY_RUNTIME_ENV_HOOK"}
    return {k: v for k, v in os.environ.items() if not k.startswith("DARKROOM_") and k not in dropped}


def find_program(name: str) -> str:
    """A program that the installation put beside its Python."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not os.access(path, os.X_OK):
        raise StartupProblem(f"{path} is missing: the installation is not complete. Run `make install`.")
    return str(path)


def rotate_log(path: Path) -> None:
    """Moves a large log aside; one old file is kept."""
    if path.exists() and path.stat().st_size > LOG_ROTATE_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))


def log_tail(path: Path, num_lines: int = 15) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8_192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"  ({error})"
    return "\n".join(f"  {line}" for line in lines[-num_lines:])


def send(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return
