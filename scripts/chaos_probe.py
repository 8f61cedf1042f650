"""How long until normal service: a small urgent picture is asked for every second, until they come without a gap."""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from chaos_journal import Order
from chaos_load import Clients

PROBE_PERIOD_S = 1.0
PROBE_TIMEOUT_S = 60.0
MAX_AT_ONCE = 20
# What dies is not always missed at once: service that goes on for a moment and then breaks is not normal yet.
CALM_S = 6.0
TENANT = "default"  # the operator's, whose pictures may be urgent


@dataclass(slots=True)
class Attempt:
    """One probe. The thread that sends it fills in how it ended."""

    ended_s: float = 0.0
    is_served: bool | None = None  # None: still waiting


class Probe:
    """Sends probes of its own accord once asked; each is an order like any other and is checked like any other."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._numbers = itertools.count()

    def seconds_to_service(self, since_s: float, *, timeout_s: float) -> float | None:
        """From `since_s` (time.monotonic) to the first picture after which none failed; None when none came in time."""
        attempts: list[Attempt] = []
        threads: list[threading.Thread] = []
        served_s: float | None = None
        while (now_s := time.monotonic()) < since_s + timeout_s:
            served_s = served_without_gap(attempts)
            if served_s is not None and now_s - served_s >= CALM_S:
                break
            if sum(thread.is_alive() for thread in threads) < MAX_AT_ONCE:
                attempts.append(Attempt())
                order = Order(f"probe-{next(self._numbers):05d}", TENANT, 0, 1, "wait_b64", is_keyed=False)
                threads.append(threading.Thread(target=self._try, args=(order, attempts[-1]), daemon=True))
                threads[-1].start()
            time.sleep(PROBE_PERIOD_S)
        for thread in threads:
            thread.join(PROBE_TIMEOUT_S)
        return None if served_s is None else served_s - since_s

    def _try(self, order: Order, attempt: Attempt) -> None:
        is_served = self._clients.run(order, timeout_s=PROBE_TIMEOUT_S, priority="high")
        attempt.ended_s = time.monotonic()
        attempt.is_served = is_served


def served_without_gap(attempts: Sequence[Attempt]) -> float | None:
    """When the first picture came of those asked for after the last failure; `attempts` are in the order of asking."""
    last_failure = max((index for index, attempt in enumerate(attempts) if attempt.is_served is False), default=-1)
    return min((attempt.ended_s for attempt in attempts[last_failure + 1 :] if attempt.is_served), default=None)
