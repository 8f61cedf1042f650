"""choose_backend(): who makes a job, and why. Pure: it sees a snapshot of the backends and changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackendState:
    """What is known of a backend when a job needs one."""

    id: str
    model_ids: frozenset[str]
    is_local: bool
    num_driven: int  # jobs this Router has given it and not yet got back


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend to use, or None, and a reason for every backend that was looked at."""

    backend_id: str | None
    reasons: tuple[str, ...]


def choose_backend(model_id: str, backends: Sequence[BackendState]) -> Choice:
    """Of those that have the model: ours before paid ones, then the least busy, then by id."""
    reasons: list[str] = []
    able: list[BackendState] = []
    for backend in sorted(backends, key=lambda b: b.id):
        if model_id not in backend.model_ids:
            reasons.append(f"{backend.id}: does not have {model_id}")
        else:
            able.append(backend)
    if not able:
        return Choice(None, tuple(reasons))
    best = min(able, key=lambda b: (not b.is_local, b.num_driven, b.id))
    for backend in able:
        verdict = "chosen" if backend is best else f"passed over for {best.id}"
        where = "ours" if backend.is_local else "a provider"
        reasons.append(f"{backend.id}: {verdict} ({where}, {backend.num_driven} driven)")
    return Choice(best.id, tuple(reasons))
