"""Stores that `darkroom serve` does not watch: a MongoDB and an S3 of the suite's own, or those that you name.

Its own are the servers that Darkroom embeds, started here as any other servers would be, each behind a fault proxy.
`darkroom serve` gets their addresses and knows nothing else of them.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import httpx
from chaos_proxy import FaultProxy, Mode

from serving.embedded import s3
from serving.embedded.children import TETHER, find_program, inherited_environment
from serving.embedded.ports import keep_ports
from serving.embedded.probes import mongo_answers

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.2
BUCKET = "chaos"

Store = Literal["mongo", "s3"]


GIVEN = ("DARKROOM_MONGO_URL", *(f"DARKROOM_S3_{name}" for name in ("ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY")))


class StoreTrouble(Exception):
    """A store of the suite's own did not start."""


class GivenStores:
    """Stores that run elsewhere, named by the variables that Darkroom itself reads. Nothing is done to them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        if missing := [name for name in GIVEN if not env.get(name)]:
            raise StoreTrouble(f"with stores of your own, set {', '.join(missing)} too")
        self._env = {name: env[name] for name in GIVEN}

    def start(self) -> None:
        """They run already."""

    def environment(self) -> dict[str, str]:
        return dict(self._env)

    def direct_environment(self) -> dict[str, str]:
        return dict(self._env)

    def clean_up(self) -> None:
        """They stay as they are, with what the run has written."""


class OwnStores:
    """Both servers and their proxies; the addresses stay the same however often a server is killed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        # A Unix socket's path ends at 107 bytes, and a home may lie deep.
        self._run_dir = Path(tempfile.mkdtemp(prefix="chaos-"))
        self._socket = self._run_dir / "mongo.sock"
        self._ports = keep_ports(home / "store-ports.json", s3.PORT_NAMES, twins={"s3.admin": s3.ADMIN_GRPC_OFFSET})
        self._credentials = s3.read_credentials(s3.new_credentials())
        self._processes: dict[Store, subprocess.Popen[bytes]] = {}
        self._proxies: dict[Store, FaultProxy] = {
            "mongo": FaultProxy(self._socket),
            "s3": FaultProxy(("127.0.0.1", self._ports["s3.s3"])),
        }

    def start(self) -> None:
        for proxy in self._proxies.values():
            proxy.start()
        self.start_store("mongo")
        self.start_store("s3")

    def environment(self) -> dict[str, str]:
        """For `darkroom serve`: both behind their proxies."""
        mongo_url = f"mongodb://127.0.0.1:{self._proxies['mongo'].port}/?directConnection=true"
        return self._addresses(mongo_url, self._proxies["s3"].port)

    def direct_environment(self) -> dict[str, str]:
        """For the checks: past the proxies."""
        mongo_url = f"mongodb://{quote(str(self._socket), safe='')}/?directConnection=true"
        return self._addresses(mongo_url, self._ports["s3.s3"])

    def set_mode(self, store: Store, mode: Mode) -> None:
        self._proxies[store].set_mode(mode)

    def kill(self, store: Store) -> None:
        process = self._processes.pop(store)
        process.kill()
        process.wait(STOP_TIMEOUT_S)

    def start_store(self, store: Store) -> None:
        """Starts a server and waits until it answers. Raises StoreTrouble."""
        if store == "mongo":
            folder = self._home / "external-mongo"
            program = (sys.executable, "-m", "serving.embedded.mongo")
            self._spawn(store, (*program, "--data-dir", str(folder), "--socket", str(self._socket)), {})
            self._wait(store, lambda: asyncio.run(mongo_answers(self._socket)))
        else:
            folder = self._home / "external-s3"
            (folder / "master").mkdir(parents=True, exist_ok=True)
            command = s3.command(
                find_program("weed"), data_dir=folder, run_dir=self._run_dir, bucket=BUCKET, ports=self._ports
            )
            self._spawn(store, tuple(command), s3.environment(self._credentials))
            self._wait(store, self._s3_answers)
            time.sleep(s3.SETTLE_S)

    def clean_up(self) -> None:
        for proxy in self._proxies.values():
            proxy.stop()
        for store in list(self._processes):
            self.kill(store)
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def _addresses(self, mongo_url: str, s3_port: int) -> dict[str, str]:
        return {
            "DARKROOM_MONGO_URL": mongo_url,
            "DARKROOM_S3_ENDPOINT": f"http://127.0.0.1:{s3_port}",
            "DARKROOM_S3_BUCKET": BUCKET,
            "DARKROOM_S3_ACCESS_KEY": self._credentials.access_key,
            "DARKROOM_S3_SECRET_KEY": self._credentials.secret_key,
        }

    def _spawn(self, store: Store, command: tuple[str, ...], env: Mapping[str, str]) -> None:
        tether = (sys.executable, "-I", "-S", str(TETHER), str(os.getpid()))
        with (self._home / f"external-{store}.log").open("ab") as log:
            self._processes[store] = subprocess.Popen(
                (*tether, *command),
                env={**inherited_environment(), **env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, store: Store, answers: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not answers():
            code = self._processes[store].poll()
            if code is not None or time.monotonic() > deadline_s:
                ended = "did not answer in time" if code is None else f"ended with {signal_or_code(code)}"
                raise StoreTrouble(f"the external {store} {ended}; see external-{store}.log in {self._home}")
            time.sleep(POLL_S)

    def _s3_answers(self) -> bool:
        try:
            return httpx.get(
                f"http://127.0.0.1:{self._ports['s3.s3']}/healthz", timeout=5.0, trust_env=False
            ).is_success
        except httpx.HTTPError:
            return False


def signal_or_code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"
