"""What a chaos run does to a server: each fault is put in, held for a while, and taken back.

Normal service is due from the moment of a kill, and of everything that stalls from the moment it is healed.
"""

import errno
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil
from chaos_proxy import Mode
from chaos_server import DarkroomUnderTest
from chaos_stores import OwnStores, Store

AWAY_S = 20.0
STORE_DOWN_S = 3.0
FILLER = ".chaos-filler"
FILL_CHUNK_BYTES = 1_048_576

Topology = Literal["embedded", "external"]


class Fault(ABC):
    """One kind of trouble. `hold_s` passes between inject() and heal()."""

    hold_s = 0.0
    # From when the seconds to normal service count.
    is_stall = False
    # Whether a client that waits gets its picture all the same, and never an error or a broken connection.
    spares_callers = False
    # Whether a Router goes with it, and with it the second of counting that it had not yet told.
    loses_counts = False
    # Whether it may come together with another one.
    pairs = True
    # Whether a training is under way when it comes.
    breaks_training = False
    topologies: frozenset[Topology] = frozenset({"embedded", "external"})

    def why_not(self, server: DarkroomUnderTest) -> str | None:
        """Why it cannot be done here; None when it can."""
        del server
        return None

    @abstractmethod
    def inject(self, server: DarkroomUnderTest, rng: random.Random) -> str:
        """Does it; says to what."""

    def heal(self, server: DarkroomUnderTest) -> None:
        """Takes it back, where nobody else does."""
        del server


class Kill(Fault):
    """kill -9 of one process of a part; whoever watches that part brings it back."""

    def __init__(self, part: str, *, spares_callers: bool = False) -> None:
        self.part, self.spares_callers = part, spares_callers
        self.loses_counts = part in {"router", "raylet", "gcs"}
        self.breaks_training = part in {"trainer", "training"}
        if part in {"mongo", "s3"}:
            self.topologies = frozenset({"embedded"})

    def inject(self, server: DarkroomUnderTest, rng: random.Random) -> str:
        victim = rng.choice(server.find(self.part))
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return f"{victim.pid}, which had just ended"
        return str(victim.pid)


class Freeze(Fault):
    """SIGSTOP of one process of a part, and SIGCONT when the time is up: it wakes into a world that went on."""

    is_stall = True

    def __init__(self, part: str, hold_s: float, *, spares_callers: bool = False) -> None:
        self.part, self.hold_s, self.spares_callers = part, hold_s, spares_callers
        if part in {"mongo", "s3"}:
            self.topologies = frozenset({"embedded"})

    def inject(self, server: DarkroomUnderTest, rng: random.Random) -> str:
        victim = rng.choice(server.find(self.part))
        try:
            server.freeze(victim)
        except ProcessLookupError:
            return f"{victim.pid}, which had just ended"
        return str(victim.pid)

    def heal(self, server: DarkroomUnderTest) -> None:
        server.thaw()


class KillTree(Fault):
    """kill -9 of everything, then `darkroom serve` again on the same state folder."""

    hold_s, is_stall, pairs, loses_counts = 1.0, True, False, True
    breaks_training = True

    def inject(self, server: DarkroomUnderTest, rng: random.Random) -> str:
        del rng
        num_processes = len(server.pids())
        server.kill_all()
        return f"{num_processes} processes"

    def heal(self, server: DarkroomUnderTest) -> None:
        server.start()


class Restart(KillTree):
    """SIGTERM, the orderly end, and `darkroom serve` again."""

    def inject(self, server: DarkroomUnderTest, rng: random.Random) -> str:
        del rng
        code = server.drain()
        return "the supervisor" if code == 0 else f"the supervisor, which ended with code {code}"


class FillDisk(Fault):
    """Fills the state folder's disk to the last byte, and makes room again."""

    hold_s, is_stall, pairs = 10.0, True, False

    def why_not(self, server: DarkroomUnderTest) -> str | None:
        return None if server.is_on_tmpfs else "only root can give the state folder a small disk of its own"

    def inject(self, server: DarkroomUnderTest, rng: random.Random) -> str:
        del rng
        num_bytes = fill(server.state_dir / FILLER)
        return f"{num_bytes // 1_000_000} MB"

    def heal(self, server: DarkroomUnderTest) -> None:
        (server.state_dir / FILLER).unlink(missing_ok=True)


class OfOwnStores(Fault):
    """What can be done only to stores that the suite has started itself."""

    is_stall, topologies = True, frozenset({"external"})

    def __init__(self, store: Store) -> None:
        self.store = store

    def why_not(self, server: DarkroomUnderTest) -> str | None:
        return None if isinstance(server.stores, OwnStores) else "these stores are not the suite's own"


class Disturb(OfOwnStores):
    """Lets the proxy before a store misbehave for a while."""

    hold_s = AWAY_S

    def __init__(self, store: Store, mode: Mode) -> None:
        super().__init__(store)
        self.mode = mode

    def inject(self, server: DarkroomUnderTest, rng: random.Random) -> str:
        del rng
        own_stores_of(server).set_mode(self.store, self.mode)
        return f"the proxy before {self.store}"

    def heal(self, server: DarkroomUnderTest) -> None:
        own_stores_of(server).set_mode(self.store, "pass")


class KillStore(OfOwnStores):
    """kill -9 of a store, which comes back a little later."""

    hold_s = STORE_DOWN_S

    def inject(self, server: DarkroomUnderTest, rng: random.Random) -> str:
        del rng
        own_stores_of(server).kill(self.store)
        return f"the external {self.store}"

    def heal(self, server: DarkroomUnderTest) -> None:
        own_stores_of(server).start_store(self.store)


def all_faults(*, lease_s: float) -> Mapping[str, Fault]:
    """Every fault by its name."""
    past_lease_s = lease_s + 3.0
    return {
        "engine": Kill("engine", spares_callers=True),
        "router": Kill("router", spares_callers=True),
        "api": Kill("api"),
        # Not so for its callers: whoever is being let in must be looked at now, and gets a 503.
        "moderator": Kill("moderator"),
        "trainer": Kill("trainer", spares_callers=True),
        "training": Kill("training", spares_callers=True),
        "proxy": Kill("proxy"),
        "controller": Kill("controller", spares_callers=True),
        "raylet": Kill("raylet"),
        "gcs": Kill("gcs"),
        "mongo": Kill("mongo"),
        "s3": Kill("s3"),
        "tree": KillTree(),
        "restart": Restart(),
        "router-frozen": Freeze("router", past_lease_s, spares_callers=True),
        "engine-frozen": Freeze("engine", past_lease_s, spares_callers=True),
        "mongo-frozen": Freeze("mongo", AWAY_S),
        "s3-frozen": Freeze("s3", AWAY_S),
        "disk-full": FillDisk(),
        "mongo-away": Disturb("mongo", "cut"),
        "mongo-hangs": Disturb("mongo", "hang"),
        "s3-503": Disturb("s3", "refuse"),
        "s3-hangs": Disturb("s3", "hang"),
        "s3-away": Disturb("s3", "cut"),
        "mongo-killed": KillStore("mongo"),
        "s3-killed": KillStore("s3"),
    }


def fill(path: Path) -> int:
    """Writes to `path` until the disk is full; how many bytes went in."""
    num_bytes = 0
    chunk = b"\0" * FILL_CHUNK_BYTES
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while chunk:
            try:
                num_bytes += os.write(fd, chunk)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                chunk = chunk[: len(chunk) // 2]  # the last bytes too
    finally:
        os.close(fd)
    return num_bytes


def own_stores_of(server: DarkroomUnderTest) -> OwnStores:
    assert isinstance(server.stores, OwnStores), "why_not() has left this fault out"
    return server.stores
