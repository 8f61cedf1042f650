"""Admission: what a tenant's own policy allows, deadlines and webhook URLs; and what is admitted reaches the job."""

import time

import pytest

from serving.errors import BadInput, Forbidden, TooManyRequests
from serving.jobs.job import Job
from serving.jobs.wish import ImageWish
from serving.tenancy.auth import Caller
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

ALICE = Caller(tenant="alice", role="member", key_id="key_1")
BOB = Caller(tenant="bob", role="member", key_id="key_2")


async def submit(house: House, caller: Caller = ALICE, **wish: object) -> Job:
    wanted = ImageWish("a red apple", **wish)  # type: ignore[arg-type]
    return (await house.services.submission.submit(caller, wanted, request_id="")).job


async def test_a_tenant_that_may_uses_high_priority_with_any_key(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    await house.services.tenants.change("alice", may_use_high_priority=True)
    assert (await submit(house, priority="high")).priority == "high"
    with pytest.raises(Forbidden, match="a tenant that may"):
        await submit(house, BOB, priority="high")


async def test_a_tenants_own_limit_goes_before_the_servers(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_queued_per_tenant": 1})
    await house.services.tenants.change("alice", max_queued=2)
    await submit(house)
    await submit(house)
    with pytest.raises(TooManyRequests, match="2 is the most"):
        await submit(house)
    await submit(house, BOB)
    with pytest.raises(TooManyRequests):
        await submit(house, BOB)


async def test_a_job_expires_when_its_wish_says_or_with_the_servers_longest_age(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_age_s": 1_000.0})
    now = time.time()
    for wish, expected_s in (({}, 1_000.0), ({"expires_in_s": 1}, 1.0), ({"expires_in_s": 999.5}, 999.5)):
        job = await submit(house, **wish)
        assert job.expires_at - job.created_at == pytest.approx(expected_s)
        assert job.created_at >= now
        assert (await house.store.get("alice", job.id)).expires_at == job.expires_at


@pytest.mark.parametrize("seconds", [0, 0.99, -1, 1_000.5, float("nan"), float("inf")])
async def test_a_deadline_out_of_range_is_refused(houses: OpenHouse, seconds: float) -> None:
    house = await houses(sweeps=False, jobs={"max_age_s": 1_000.0})
    with pytest.raises(BadInput, match="from 1 to 1000") as caught:
        await submit(house, expires_in_s=seconds)
    assert caught.value.param == "expires_in_s"
    assert await house.store.count_queued() == 0


async def test_a_webhook_url_is_kept_and_one_that_leads_inside_is_refused(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    job = await submit(house, webhook_url="https://example.org/hook")
    assert (await house.store.get("alice", job.id)).webhook_url == "https://example.org/hook"
    for url in ("http://169.254.169.254/latest", "http://127.0.0.1:8000", "file:///etc/passwd", ""):
        with pytest.raises(BadInput) as caught:
            await submit(house, webhook_url=url)
        assert caught.value.param == "webhook_url"
    assert await house.store.count_queued() == 1


async def test_what_is_refused_takes_no_room(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_queued_per_tenant": 1})
    for _ in range(3):
        with pytest.raises(Forbidden):
            await submit(house, priority="high")
    await submit(house)
