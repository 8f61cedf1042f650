"""When a job is tried again: waits that double up to a cap, with jitter within its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from configs.settings import JobSettings
from models.errors import GenerationError, NotFinite, OutOfMemory
from serving.jobs.retrying import MAY_PASS, retry_delay_s

numbers = st.floats(0.01, 1_000)


@given(num_tries=st.integers(-3, 10**9), base_s=numbers, cap_s=numbers)
def test_the_wait_doubles_with_every_try_up_to_its_cap_give_or_take_a_quarter(
    num_tries: int, base_s: float, cap_s: float
) -> None:
    delay_s = retry_delay_s(num_tries, JobSettings(retry_base_s=base_s, retry_cap_s=cap_s))
    num_doublings = min(max(num_tries - 1, 0), 64)
    plain_s = min(cap_s, base_s * 2**num_doublings)
    assert 0.75 * plain_s <= delay_s <= 1.25 * plain_s


def test_the_standard_waits_are_two_four_eight_seconds_and_no_more_than_a_minute_and_a_quarter() -> None:
    settings = JobSettings()
    middles = [sum(retry_delay_s(num_tries, settings) for _ in range(400)) / 400 for num_tries in (1, 2, 3, 30)]
    for middle, wanted in zip(middles, (2, 4, 8, 60), strict=True):
        assert abs(middle - wanted) < 0.1 * wanted


def test_jobs_that_failed_together_do_not_come_back_together() -> None:
    delays = sorted(retry_delay_s(3, JobSettings()) for _ in range(200))
    assert len(set(delays)) == 200
    assert delays[-1] - delays[0] > 0.3 * 8


def test_only_memory_may_be_there_another_time() -> None:
    """What depends on the request alone would only take the engine's time again."""
    assert OutOfMemory.code in MAY_PASS
    assert MAY_PASS.isdisjoint({GenerationError.code, NotFinite.code})
