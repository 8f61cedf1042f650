"""Shares: device seconds that all Routers know of, forgotten by half-lives; the clock is simulated."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Unavailable
from serving.jobs.shares import HALF_LIVES_PER_ERA, Shares
from serving.mongo import Mongo

HALF_LIFE_S = 300.0
ERA_S = HALF_LIVES_PER_ERA * HALF_LIFE_S
ERA_BEGINS_AT = 90_000 * ERA_S


@dataclass
class Clock:
    now: float = ERA_BEGINS_AT + 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(mongo: Mongo, clock: Clock) -> Callable[[], Shares]:
    """Another Router over the same database."""
    return lambda: Shares(mongo, half_life_s=HALF_LIFE_S, clock=clock)


def use(shares: Shares, tenant: str, seconds: float) -> None:
    shares.begin(tenant, 1.0)
    shares.end(tenant, 1.0, seconds)


async def test_who_has_used_nothing_has_used_nothing(router: Callable[[], Shares]) -> None:
    shares = router()
    await shares.exchange()
    assert shares.used_s("alice") == 0.0


async def test_a_running_job_counts_as_expected_and_an_ended_one_as_it_was(router: Callable[[], Shares]) -> None:
    shares = router()
    shares.begin("alice", 4.0)
    shares.begin("alice", 6.0)
    assert shares.used_s("alice") == pytest.approx(10.0)
    shares.end("alice", 4.0, 1.0)
    assert shares.used_s("alice") == pytest.approx(7.0)
    shares.end("alice", 6.0, 0.0)
    assert shares.used_s("alice") == pytest.approx(1.0)
    assert shares.used_s("bob") == 0.0


async def test_half_is_forgotten_after_each_half_life(router: Callable[[], Shares], clock: Clock) -> None:
    shares = router()
    use(shares, "alice", 8.0)
    await shares.exchange()
    assert shares.used_s("alice") == pytest.approx(8.0)
    for left in (4.0, 2.0, 1.0):
        clock.now += HALF_LIFE_S
        assert shares.used_s("alice") == pytest.approx(left)
    await shares.exchange()
    assert shares.used_s("alice") == pytest.approx(1.0)


async def test_every_router_learns_what_was_used_at_the_others(router: Callable[[], Shares], clock: Clock) -> None:
    one, other = router(), router()
    use(one, "alice", 5.0)
    use(one, "bob", 1.0)
    await one.exchange()
    clock.now += HALF_LIFE_S
    use(other, "alice", 3.0)
    await other.exchange()
    await one.exchange()
    late = router()
    await late.exchange()
    for shares in (one, other, late):
        assert shares.used_s("alice") == pytest.approx(5.5)
        assert shares.used_s("bob") == pytest.approx(0.5)


async def test_what_was_told_is_told_once(router: Callable[[], Shares]) -> None:
    shares, other = router(), router()
    use(shares, "alice", 5.0)
    for _ in range(3):
        await shares.exchange()
    await other.exchange()
    assert shares.used_s("alice") == other.used_s("alice") == pytest.approx(5.0)


async def test_routers_that_tell_at_once_lose_nothing(router: Callable[[], Shares]) -> None:
    """All of them find no document at first."""
    routers = [router() for _ in range(8)]
    for round_number in range(3):
        for shares in routers:
            use(shares, "alice", 1.0 + round_number)
        await asyncio.gather(*(shares.exchange() for shares in routers))
    await routers[0].exchange()
    assert routers[0].used_s("alice") == pytest.approx(8 * (1 + 2 + 3))


@pytest.mark.parametrize("pause_s", [10.0, HALF_LIFE_S, ERA_S / 2])
async def test_a_new_era_changes_no_share(router: Callable[[], Shares], clock: Clock, raw: Any, pause_s: float) -> None:
    clock.now = ERA_BEGINS_AT + ERA_S - pause_s / 2
    shares, other = router(), router()
    use(shares, "alice", 1_024.0)
    use(shares, "bob", 512.0)
    await shares.exchange()
    before = (await raw["shares"].find_one({"_id": "alice"}))["era"]
    clock.now += pause_s
    faded = 1_024.0 * 0.5 ** (pause_s / HALF_LIFE_S)
    assert shares.used_s("alice") == pytest.approx(faded)
    use(other, "alice", 7.0)  # renews the era
    await other.exchange()
    await shares.exchange()
    after = await raw["shares"].find_one({"_id": "alice"})
    assert after["era"] == before + ERA_S
    for one in (shares, other):
        assert one.used_s("alice") == pytest.approx(faded + 7.0)
        assert one.used_s("bob") == pytest.approx(faded / 2)  # still in the old era


async def test_routers_that_renew_the_era_at_once_lose_nothing(router: Callable[[], Shares], clock: Clock) -> None:
    routers = [router() for _ in range(8)]
    clock.now = ERA_BEGINS_AT + ERA_S - HALF_LIFE_S / 2
    use(routers[0], "alice", 10.0)
    await routers[0].exchange()
    clock.now += HALF_LIFE_S
    for shares in routers:
        use(shares, "alice", 1.0)
    await asyncio.gather(*(shares.exchange() for shares in routers))
    await routers[0].exchange()
    assert routers[0].used_s("alice") == pytest.approx(10.0 / 2 + 8)


async def test_a_router_whose_clock_is_behind_spoils_nothing_at_the_change_of_era(mongo: Mongo) -> None:
    ahead, behind = Clock(ERA_BEGINS_AT + 0.5), Clock(ERA_BEGINS_AT - 0.5)
    routers = [Shares(mongo, half_life_s=HALF_LIFE_S, clock=clock) for clock in (ahead, behind)]
    for _ in range(3):
        for shares in routers:
            use(shares, "alice", 2.0)
            await shares.exchange()
    for shares in routers:
        await shares.exchange()
        assert shares.used_s("alice") == pytest.approx(12.0, rel=0.01)


async def test_thousands_of_eras_later_nothing_is_left_and_nothing_breaks(
    router: Callable[[], Shares], clock: Clock
) -> None:
    shares = router()
    use(shares, "alice", 1e6)
    await shares.exchange()
    clock.now += 5_000 * ERA_S
    assert shares.used_s("alice") == 0.0
    use(shares, "alice", 2.0)
    await shares.exchange()
    assert shares.used_s("alice") == pytest.approx(2.0)


async def test_at_no_moment_of_an_exchange_is_anything_forgotten_or_counted_twice(
    router: Callable[[], Shares],
) -> None:
    shares = router()
    tenants = [f"t{index}" for index in range(10)]
    for _ in range(2):  # documents that are new, and documents that are there
        before = {tenant: shares.used_s(tenant) + 3.0 for tenant in tenants}
        for tenant in tenants:
            use(shares, tenant, 3.0)
        exchange = asyncio.create_task(shares.exchange())
        while not exchange.done():
            assert {tenant: shares.used_s(tenant) for tenant in tenants} == pytest.approx(before)
            await asyncio.sleep(0)
        await exchange


async def test_what_is_used_during_an_exchange_is_told_by_the_next(router: Callable[[], Shares]) -> None:
    shares, other = router(), router()
    use(shares, "alice", 1.0)
    exchange = asyncio.create_task(shares.exchange())
    await asyncio.sleep(0)
    use(shares, "alice", 2.0)
    use(shares, "bob", 4.0)
    await exchange
    await shares.exchange()
    await other.exchange()
    assert (other.used_s("alice"), other.used_s("bob")) == (pytest.approx(3.0), pytest.approx(4.0))


async def test_a_database_that_is_away_costs_no_share(
    router: Callable[[], Shares], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, other = router(), router()
    use(shares, "alice", 5.0)

    async def away(*_args: Any, **_more: Any) -> Any:
        raise Unavailable("the database is away")

    with monkeypatch.context() as patch:
        for method in ("find", "find_one", "find_one_and_update", "update_one", "insert"):
            patch.setattr(f"serving.mongo.Collection.{method}", away)
        with pytest.raises(Unavailable):
            await shares.exchange()
    assert shares.used_s("alice") == pytest.approx(5.0)
    await shares.exchange()
    await other.exchange()
    assert shares.used_s("alice") == other.used_s("alice") == pytest.approx(5.0)


@given(st.lists(st.floats(0, 1e3), max_size=12), st.randoms())
def test_when_no_job_runs_nothing_is_expected_of_any(expected: list[float], random: Any) -> None:
    """However small and however many: rounding must leave nobody a share, and must break nothing."""
    shares = Shares(_NoDatabase(), half_life_s=HALF_LIFE_S, clock=Clock())  # type: ignore[arg-type]
    for expected_s in expected:
        shares.begin("alice", expected_s)
    random.shuffle(expected)
    for expected_s in expected:
        shares.end("alice", expected_s, 0.0)
    assert shares.used_s("alice") == 0.0


class _NoDatabase:
    """For what needs none."""

    def across_tenants(self, *_args: Any) -> None:
        return None
