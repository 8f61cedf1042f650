"""The application on Ray as the supervisor sees it: put there, waited for, put there again, drained."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict

import httpx

from serving.embedded.children import Child, log_tail, spawn
from serving.embedded.plan import Plan
from serving.embedded.probes import ApiProbe, ServeProbe
from serving.embedded.problem import PART_FAILED, StartupProblem
from serving.embedded.screen import Screen
from serving.embedded.state import RollRecord, RunFile, write_private

# After Ray came back Serve restores the application by itself in about 7 s; deploying again is the fallback.
RESTORE_TIMEOUT_S = 25.0
AGAIN_AFTER_S = 20.0
API_POLL_S = 2.0
START_POLL_S = 0.5
DRAIN_POLL_S = 0.2
# Routers look twice a second whether they are to stop, and a client that waits gets its picture a moment after the end.
SETTLE_S = 1.0


class Deployment:
    """One application; `deployer` is the program that puts it onto Ray."""

    def __init__(
        self, plan: Plan, run: RunFile, screen: Screen, client: httpx.AsyncClient, deployer: tuple[str, ...]
    ) -> None:
        self._plan = plan
        self._run = run
        self._screen = screen
        self._api = ApiProbe(client, plan.settings.host, plan.settings.port)
        self._serve = ServeProbe(client, plan.dashboard_url, plan.state.ray_token().read_text("ascii").strip())
        self._deployer = deployer
        self._roll_requested = asyncio.Event()
        self._deploying = asyncio.Lock()

    def request_roll(self) -> None:
        """Every replica is to be replaced; asked for again meanwhile, all are replaced once more."""
        self._roll_requested.set()

    async def bring_up(self, on_ready: Callable[[], None]) -> None:
        """Deploys and waits until a picture could be made. Raises StartupProblem."""
        self._screen.stage(f"Deploying {', '.join(self._plan.settings.models.enabled)}")
        await self._deploy_and_wait()
        on_ready()

    async def keep(self, ray: Child) -> None:
        """Deploys again if the API stays away although Ray is back, or Serve has given up a part of it."""
        gone_since_s: float | None = None
        while True:
            await asyncio.sleep(API_POLL_S)
            # Read once: while a probe is awaited Ray may die, and its child then has no such time.
            ray_since_s = ray.ready_since_s
            if ray_since_s is None or self._deploying.locked():
                gone_since_s = None
                continue
            if await self._api.is_gone():
                gone_since_s = gone_since_s or time.monotonic()
                if ray.ready_since_s is None or time.monotonic() - max(gone_since_s, ray_since_s) < RESTORE_TIMEOUT_S:
                    continue
                self._screen.notice("the API has not come back by itself; deploying again")
            elif await self._serve.has_given_up():
                self._screen.notice("Ray Serve has given up a part that did not start; deploying again")
            else:
                gone_since_s = None
                continue
            gone_since_s = None
            if problem := await self._try_to_deploy():
                self._screen.notice(problem)
                await asyncio.sleep(AGAIN_AFTER_S)

    async def keep_rolling(self) -> None:
        """Replaces all replicas whenever that is asked for. What fails leaves the old ones at work."""
        while True:
            await self._roll_requested.wait()
            self._roll_requested.clear()
            self._screen.notice("rolling restart: replacing every replica")
            began_s = time.monotonic()
            problem = await self._try_to_deploy()
            took_s = time.monotonic() - began_s
            self._screen.notice(problem or f"rolling restart: done after {took_s:.0f} s")
            self._record(RollRecord(ended_at=time.time(), took_s=took_s, problem=problem))

    async def drain(self) -> None:
        """Has the server begin nothing new, and waits until what runs has ended or was handed back."""
        drain_s = self._plan.settings.jobs.drain_s
        assert self._plan.settings.admin_key, "settings are effective"
        door = self._api.admin_door(self._plan.settings.admin_key.get_secret_value())
        if not await door.begin_drain(within_s=drain_s):
            return  # nothing runs, or nobody is there to ask
        self._screen.stage(f"Draining: what runs may end within {drain_s:g} s; Ctrl-C stops at once")
        deadline_s = time.monotonic() + drain_s + SETTLE_S
        while time.monotonic() < deadline_s and (num_running := await door.num_running()) != 0:
            self._screen.waiting("the server does not answer" if num_running is None else f"{num_running} running")
            await asyncio.sleep(DRAIN_POLL_S)
        self._screen.end_waiting()
        await asyncio.sleep(SETTLE_S)

    def _record(self, roll: RollRecord) -> None:
        try:
            write_private(self._plan.state.roll_path, json.dumps(asdict(roll)))
        except OSError as error:
            self._screen.notice(f"the rolling restart could not be written down: {error}")

    async def _deploy_and_wait(self) -> None:
        timeout_s = self._plan.settings.ray.ready_timeout_s
        deployment = asyncio.create_task(self._deploy())
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    missing = await self._api.missing()
                    if deployment.done():
                        deployment.result()
                        if missing is None:
                            return
                    self._screen.waiting("; ".join(missing or ["the deployment is not complete yet"]))
                    await asyncio.sleep(START_POLL_S)
        except TimeoutError as error:
            raise StartupProblem(
                f"Not ready after {timeout_s:.0f} s (ray.ready_timeout_s).", exit_code=PART_FAILED
            ) from error
        finally:
            deployment.cancel()
            await asyncio.gather(deployment, return_exceptions=True)

    async def _try_to_deploy(self) -> str | None:
        """Why it failed, or None."""
        try:
            await self._deploy_and_wait()
        except StartupProblem as problem:
            return str(problem)
        finally:
            self._screen.end_waiting()
        return None

    async def _deploy(self) -> None:
        """Runs the deployer to its end. Raises StartupProblem if it fails."""
        log_path = self._plan.state.log_path("deployer")
        async with self._deploying:
            process = await spawn(
                self._deployer, self._plan.deployer_env, log_path, run_id=f"{self._run.run_id}.deployer"
            )
            self._run.add_session(process.pid)
            try:
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                self._run.drop_session(process.pid)
        if code != 0:
            raise StartupProblem(
                f"Deploying failed (code {code}). The end of {log_path}:\n{log_tail(log_path)}", exit_code=PART_FAILED
            )
