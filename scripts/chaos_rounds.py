"""Rounds of chaos on one server: load, a fault at a random moment, the wait for normal service, the judgement."""

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from chaos_checks import Finding, accepted, judge
from chaos_evidence import Evidence, Inspector
from chaos_faults import Fault
from chaos_hooks import HookReceiver
from chaos_journal import Journal
from chaos_load import ORDER_TIMEOUT_S, Clients, Load, draw_orders
from chaos_pictures import KnownPicture
from chaos_probe import TENANT as PROBE_TENANT
from chaos_probe import Probe
from chaos_server import DarkroomUnderTest
from chaos_trainings import Trainings, caller
from chaos_watch import Watcher

TENANTS = ("acme", "globex")
SETUP_TIMEOUT_S = 30.0
SERVICE_TIMEOUT_S = 150.0
SETTLE_TIMEOUT_S = 120.0
SETTLE_POLL_S = 1.0
STEADY_S = 40.0  # findings that stayed the same for so long will not go away by themselves
PAIR_WITHIN_S = 3.0
REFUSE_ONE_HOOK_IN = 8


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What one round does."""

    faults: tuple[str, ...]
    num_orders: int


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One line of the table."""

    number: int
    faults: tuple[str, ...]
    num_accepted: int = 0
    ends: Mapping[str, int] = field(default_factory=dict)  # status → jobs
    num_pictures: int = 0  # whose pixels were compared
    num_webhooks: int = 0  # that arrived
    service_s: float | None = None
    num_trainings: int = 0  # whose weights were compared
    start_s: float | None = None  # of a killed engine: what its successor took from its process's start to being ready
    whole_s: float = 0.0
    findings: tuple[Finding, ...] = ()

    def count(self, verdict: str) -> int:
        """How many jobs were lost, doubled or wrong."""
        return len({finding.about for finding in self.findings if finding.verdict == verdict})


def plan_rounds(
    rng: random.Random,
    faults: Mapping[str, Fault],
    *,
    num_rounds: int,
    num_orders: int,
    pair_chance: float,
    is_in_order: bool = False,
) -> list[RoundPlan]:
    """Every fault once before any comes again, in random order; some rounds get two at once."""
    plans: list[RoundPlan] = []
    bag: list[str] = []
    for number in range(num_rounds):
        if not bag:
            bag = list(reversed(list(faults))) if is_in_order else rng.sample(list(faults), len(faults))
        first = bag.pop()
        chosen: tuple[str, ...] = (first,)
        partners = [name for name in faults if name != first and faults[name].pairs]
        if faults[first].pairs and partners and rng.random() < pair_chance:
            chosen = (first, rng.choice(partners))
        # What does not divide evenly goes to the first rounds.
        plans.append(RoundPlan(chosen, num_orders // num_rounds + (number < num_orders % num_rounds)))
    return plans


class Campaign:
    """A server that is ready, its clients, and all that watches them."""

    def __init__(
        self,
        server: DarkroomUnderTest,
        journal: Path,
        pictures: Sequence[KnownPicture],
        *,
        faults: Mapping[str, Fault],
        rng: random.Random,
        window_s: float,
    ) -> None:
        self._server, self._pictures, self._faults, self._rng = server, pictures, faults, rng
        self._window_s = window_s
        self._began_at = time.time()
        self._uncounted_rounds: set[int] = set()
        self._journal = Journal(journal)
        self._hooks = HookReceiver(self._journal, refuse_one_in=REFUSE_ONE_HOOK_IN)
        keys, secrets = self._make_tenants()
        by_job = {tenant: self._hooks.url(tenant) for tenant in TENANTS[1:]}
        self._clients = Clients(server.url, keys, by_job, pictures, self._journal)
        self._probe = Probe(self._clients)
        settings = server.settings()
        self._inspector = Inspector(server.url, keys, settings, journal, pictures, secrets=secrets)
        self._trainings: Trainings | None = None
        if any(fault.breaks_training for fault in faults.values()):
            self._trainings = Trainings(caller(server.url), rng)
            self._trainings.prepare(server.admin_key)
        self._watcher = Watcher(settings.mongo)
        self._watcher.start()

    def close(self) -> None:
        self._watcher.stop()
        self._clients.close()
        self._hooks.stop()
        self._journal.close()

    def run_round(self, number: int, plan: RoundPlan) -> RoundReport:
        """One round. The server is whole again when it ends, or ServerTrouble is raised."""
        self._journal.round = number
        began_at, began_s = time.time(), time.monotonic()
        self._watcher.forget()
        faults = [self._faults[name] for name in plan.faults]
        if any(fault.loses_counts for fault in faults):
            self._uncounted_rounds.add(number)
        orders = draw_orders(
            self._rng,
            prefix=f"r{number:03d}",
            count=plan.num_orders,
            tenants=TENANTS,
            num_pictures=len(self._pictures),
            window_s=self._window_s + max(fault.hold_s for fault in faults),  # the load goes on while they last
        )
        breaks_training = self._trainings is not None and any(fault.breaks_training for fault in faults)
        training = self._trainings.begin(number) if self._trainings is not None and breaks_training else None
        load = Load(self._clients, orders)
        due_s = self._do(faults, plan.faults)
        service_s = self._probe.seconds_to_service(due_s, timeout_s=SERVICE_TIMEOUT_S)
        findings: list[Finding] = []
        if service_s is None:
            findings.append(Finding("wrong", "service", f"no picture within {SERVICE_TIMEOUT_S:.0f} s"))
        if num_stuck := load.join(ORDER_TIMEOUT_S):
            findings.append(Finding("wrong", "clients", f"{num_stuck} of them never came to an end"))
        spares = all(fault.spares_callers for fault in faults)
        evidence, judged = self._settle(began_at, number, spares_callers=spares)
        self._server.wait_ready()
        if self._trainings is not None and training is not None:
            findings += self._trainings.judge(training)
        report = _report(number, plan, evidence, [*findings, *judged], time.monotonic() - began_s)
        start_s = self._server.engine_start_s() if "engine" in plan.faults else None
        return replace(report, service_s=service_s, start_s=start_s, num_trainings=int(training is not None))

    def judge_whole(self, number: int) -> RoundReport:
        """All rounds once more, now that everything late has had its time: what woke up may have written since."""
        began_s = time.monotonic()
        evidence, findings = self._settle(self._began_at, None, spares_callers=False)
        ledger_s = self._inspector.ledger_s()
        if evidence is not None and ledger_s is not None:
            told = replace(evidence, ledger_s=ledger_s, uncounted_rounds=frozenset(self._uncounted_rounds))
            findings = judge(told)
        return _report(number, RoundPlan(("all rounds again",), 0), evidence, findings, time.monotonic() - began_s)

    def _do(self, faults: Sequence[Fault], names: Sequence[str]) -> float:
        """Injects and heals at their moments; from when on service is due (time.monotonic)."""
        # A training stands at the step where it is to be broken; nothing waits for a better moment.
        wait = (0.0, 0.05) if any(fault.breaks_training for fault in faults) else (0.15, 0.6)
        first_s = time.monotonic() + self._rng.uniform(*wait) * self._window_s
        actions: list[tuple[float, str, Fault, str]] = []
        for index, (fault, name) in enumerate(zip(faults, names, strict=True)):
            at_s = first_s + (self._rng.uniform(0, PAIR_WITHIN_S) if index else 0.0)
            actions += [(at_s, "inject", fault, name), (at_s + fault.hold_s, "heal", fault, name)]
        due_s = 0.0
        for at_s, action, fault, name in sorted(actions, key=lambda entry: entry[0]):
            time.sleep(max(0.0, at_s - time.monotonic()))
            if fault.is_stall == (action == "heal"):
                due_s = max(due_s, time.monotonic())
            if action == "inject":
                self._journal.write("fault", fault=name, done_to=fault.inject(self._server, self._rng))
            else:
                fault.heal(self._server)
        return due_s

    def _settle(
        self, since: float, round_: int | None, *, spares_callers: bool
    ) -> tuple[Evidence | None, Sequence[Finding]]:
        """Looks until there is nothing to find any more, or nothing that would still change."""
        began_s = steady_since_s = time.monotonic()
        evidence: Evidence | None = None
        findings: Sequence[Finding] = (Finding("wrong", "stores", "could not be read"),)
        while (
            findings and (now_s := time.monotonic()) - began_s < SETTLE_TIMEOUT_S and now_s - steady_since_s < STEADY_S
        ):
            backward = tuple(self._watcher.chronicle.backward)
            found = self._inspector.gather(since=since, round_=round_, backward=backward)
            if found is not None:
                judged = judge(found, spares_callers=spares_callers)
                if judged != findings:
                    steady_since_s = now_s
                evidence, findings = found, judged
            if findings:
                time.sleep(SETTLE_POLL_S)
        return evidence, findings

    def _make_tenants(self) -> tuple[dict[str, str], dict[str, str]]:
        """Keys by tenant, and the secrets of their webhooks: one has an endpoint, the others name a URL in each job."""
        keys, secrets = {PROBE_TENANT: self._server.admin_key}, {}
        for tenant in TENANTS:
            self._call("POST", keys[PROBE_TENANT], "/v1/admin/tenants", {"id": tenant})
            made = self._call("POST", keys[PROBE_TENANT], "/v1/admin/keys", {"name": "chaos", "tenant": tenant})
            keys[tenant] = made["key"]
        first, *others = TENANTS
        secrets[first] = self._call("POST", keys[first], "/v1/webhooks", {"url": self._hooks.url(first)})["secret"]
        for tenant in others:
            secrets[tenant] = self._call("GET", keys[tenant], "/v1/webhooks/default/secret")["secret"]
        return keys, secrets

    def _call(self, method: str, key: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        url, headers = self._server.url + path, {"Authorization": f"Bearer {key}"}
        reply = httpx.request(method, url, json=body, headers=headers, timeout=SETUP_TIMEOUT_S, trust_env=False)
        reply.raise_for_status()
        parsed: dict[str, Any] = reply.json()
        return parsed


def _report(
    number: int,
    plan: RoundPlan,
    evidence: Evidence | None,
    findings: Sequence[Finding],
    whole_s: float,
) -> RoundReport:
    report = RoundReport(number, plan.faults, whole_s=whole_s, findings=tuple(findings))
    if evidence is None:
        return report
    ends = Counter(job.status for job in evidence.jobs)
    pictures = [picture for found in evidence.pictures.values() for picture in found if picture.found_sha256]
    return replace(
        report,
        num_accepted=len(accepted(evidence)),
        ends=dict(ends),
        num_pictures=len(pictures),
        num_webhooks=len(evidence.deliveries),
    )
