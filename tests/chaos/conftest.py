"""Where the suite that kills everything finds its parts, and a sound outcome that tests then spoil."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from standardwebhooks import Webhook

from configs.settings import PROJECT_DIR

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0IQ=="
NOW = 1_790_000_000.0
SHA256 = "ab" * 32

Part = Callable[[str], ModuleType]


@pytest.fixture(scope="session", autouse=True)
def scripts() -> Iterator[None]:
    sys.path.insert(0, str(PROJECT_DIR / "scripts"))
    yield
    sys.path.remove(str(PROJECT_DIR / "scripts"))


@pytest.fixture(scope="session")
def part(scripts: None) -> Part:
    """A part of the suite by its name, such as "checks"."""
    return lambda name: import_module(f"chaos_{name}")


class Outcome:
    """Evidence of a run in which all went well: a job of each tenant that succeeded, and one that was cancelled."""

    def __init__(self, part: Part) -> None:
        self.checks, self._evidence, self._journal = part("checks"), part("evidence"), part("journal")
        jobs = [self.job("job_1"), self.job("job_2", tenant="globex"), self.job("job_3", status="cancelled")]
        orders = {job.order: self._journal.Order(job.order, job.tenant, 0, 1, "async", True) for job in jobs}
        orders["order of job_3"] = replace(orders["order of job_3"], way="cancel")
        self.evidence = self._evidence.Evidence(
            orders=orders,
            entries=[entry for job in jobs for entry in self._entries(job)],
            jobs=jobs,
            answers={job.id: job.status for job in jobs},
            pictures={job.id: [self.picture(key) for key in job.picture_keys] for job in jobs},
            objects={job.id: frozenset(job.picture_keys) for job in jobs},
            deliveries=[
                self.delivery(job, event)
                for job in jobs
                if job.tenant == "acme"
                for event in ("job.started", f"job.{job.status}")
            ],
            secrets={"acme": SECRET},
            ledger_s={"acme": 3.0, "globex": 1.5},
        )

    def job(self, job_id: str, *, tenant: str = "acme", status: str = "succeeded") -> Any:  # noqa: ANN401
        keys = (f"tenants/{tenant}/{job_id}/1-0.png",) if status == "succeeded" else ()
        return self._evidence.FoundJob(
            id=job_id,
            tenant=tenant,
            order=f"order of {job_id}",
            status=status,
            fence=1,
            attempts=1,
            owner=None,
            error_code=None,
            created_at=NOW,
            device_s=1.5,
            picture_keys=keys,
            picture_sha256=(SHA256,) * len(keys),
        )

    def picture(self, key: str, **changes: Any) -> Any:  # noqa: ANN401
        return replace(self._evidence.FoundPicture(key, SHA256, SHA256, None), **changes)

    def delivery(self, job: Any, event: str, *, at_s: float = 0.0, event_id: str = "", secret: str = SECRET) -> Any:  # noqa: ANN401
        """A webhook with a true signature, unless another secret signs it."""
        webhook_id, body = event_id or f"evt of {job.id} {event}", json.dumps({"type": event, "data": {"id": job.id}})
        sent_s = NOW + 10 + (1 if event == "job.started" else 2) + at_s
        signature = Webhook(secret).sign(webhook_id, datetime.fromtimestamp(sent_s, UTC), body)
        headers = {"webhook-id": webhook_id, "webhook-timestamp": str(int(sent_s)), "webhook-signature": signature}
        return self._evidence.Delivery(job.tenant, sent_s, headers, body, is_taken=True)

    def entry(self, kind: str, order: str, job: str = "", **detail: Any) -> Any:  # noqa: ANN401
        return self._journal.Entry(NOW, 1, kind, order, job, detail)

    def judge(self, *, spares_callers: bool = False, **changes: Any) -> list[Any]:
        """What is found once the evidence has been changed."""
        return self.checks.judge(replace(self.evidence, **changes), spares_callers=spares_callers)

    def with_job(self, job_id: str, **changes: Any) -> list[Any]:
        """All jobs, one of them changed."""
        return [replace(job, **changes) if job.id == job_id else job for job in self.evidence.jobs]

    def _entries(self, job: Any) -> list[Any]:  # noqa: ANN401
        return [
            self.entry("ordered", job.order),
            self.entry("accepted", job.order, job.id),
            self.entry("ended", job.order, job.id, status=job.status, code=None),
        ]


@pytest.fixture
def outcome(part: Part) -> Outcome:
    return Outcome(part)


@pytest.fixture
def journal_path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"
