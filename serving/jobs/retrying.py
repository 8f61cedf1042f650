"""Whether and when a job is tried again, and what is said when it is not. Pure."""

import random

from configs.settings import JobSettings
from models.errors import OutOfMemory
from serving.jobs.job import Job, JobError

# Errors of a request that another moment, or another engine, may not have.
MAY_PASS = frozenset({OutOfMemory.code})


def got_further(job: Job) -> bool:
    """Whether the attempt that was just lost did a training some good: that is no loss, for it goes on from there."""
    return job.is_training and job.step > job.reached


def max_lost_workers(job: Job, settings: JobSettings) -> int:
    """How often its worker may be lost before it is given up."""
    return settings.lora_max_lost_workers if job.is_training else settings.max_lost_workers


def given_up(num_lost: int, *, last: str = "") -> JobError:
    """How a job fails that has lost its worker too often; `last` is what was heard of the last time."""
    message = f"Given up: it lost its worker {num_lost} times."
    return JobError("workers_lost", f"{message} The last time: {last}" if last else message)


def retry_delay_s(num_tries: int, settings: JobSettings) -> float:
    """The wait after the n-th try that did not succeed: 2, 4, 8 … s up to a cap, each give or take a quarter.

    The jitter keeps jobs that failed together from coming back together.
    """
    exponent = min(max(num_tries, 1), 32) - 1
    delay_s = min(settings.retry_cap_s, settings.retry_base_s * 2.0**exponent)
    return delay_s * random.uniform(0.75, 1.25)
