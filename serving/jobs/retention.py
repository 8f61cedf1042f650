"""What of an ended job is to be cleared away, and when. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from serving.jobs.job import Job

# A tenant's retention may be changed at any time; no job is older than this when the change reaches it.
LOOK_EVERY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Clearing:
    """What is due for one ended job."""

    leftovers: bool  # what attempts have stored that did not win
    inputs: bool  # the files that it started from
    everything: bool  # all that it stored, and then the job itself
    next_at: float  # when to look at it again, unless it is gone


def clearing_due(job: Job, now: float, *, keep_s: float, temp_keep_s: float) -> Clearing:
    """What is due at `now`, Unix seconds; whatever was done before may be done again."""
    ended_at = job.finished_at or job.created_at
    delete_at = ended_at + keep_s
    moments = [delete_at, now + LOOK_EVERY_S]
    has_inputs = bool(job.request.inputs) or job.is_training
    # A job that is tried again by hand needs its inputs; after this it fails for want of them.
    inputs_at = min(delete_at, ended_at + temp_keep_s)
    if job.is_training and job.status != "failed":
        inputs_at = ended_at  # what it would go on from
    if has_inputs:
        moments.append(inputs_at)
    has_leftovers = job.status != "succeeded" or job.attempts > 1
    if job.is_training:  # its dataset is its version's, or goes with what it would go on from
        has_leftovers = job.status != "succeeded" and inputs_at <= now
    return Clearing(
        leftovers=has_leftovers,
        inputs=has_inputs and inputs_at <= now,
        everything=delete_at <= now and not job.owed_at,  # nobody has been told yet how it ended: it stays
        next_at=min(moment for moment in moments if moment > now),
    )


def leftovers(job: Job, keys: Iterable[str]) -> list[str]:
    """Of all keys under its prefix those that its result does not point at.

    Those with a newer fence than this snapshot stay: they are of a new life that began after we looked.
    """
    kept = set(job.result.keys) if job.result is not None else set()
    return [key for key in outputs_of(job, keys) if key not in kept]


def stored_by(attempt: Job, keys: Iterable[str]) -> list[str]:
    """Of all keys under a job's prefix those that this very attempt has stored."""
    return [key for key in keys if _fence_of(key) == attempt.fence]


def outputs_of(job: Job, keys: Iterable[str]) -> list[str]:
    """Of all keys under its prefix those that were stored up to this snapshot.

    What a training has stored is its version's once it has succeeded, and goes with that (serving/adapters/store.py).
    """
    if job.is_training:
        return [] if job.status == "succeeded" else list(keys)
    return [key for key in keys if _fence_of(key) <= job.fence]


def _fence_of(key: str) -> int:
    """As the driver writes it: {prefix}/{fence}-{index}.{extension}; 0 for a name that is none of ours."""
    number = key.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isdecimal() else 0
