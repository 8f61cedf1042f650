"""A tenant's bytes are counted once, however often and by however many a step is taken."""

import asyncio

import pytest

from serving.mongo import Mongo
from serving.uploads.accounts import Accounts
from serving.uploads.inspecting import UploadRefused

LIMIT_BYTES = 1_000


@pytest.fixture
def accounts(mongo: Mongo) -> Accounts:
    return Accounts(mongo)


async def put(accounts: Accounts, nonce: str, num_bytes: int = 100) -> None:
    await accounts.begin("alice", nonce, num_bytes, limit_bytes=LIMIT_BYTES)
    await accounts.settle("alice", nonce)


async def test_what_comes_counts_from_the_beginning_and_once(accounts: Accounts) -> None:
    for _ in range(3):
        await accounts.begin("alice", "a", 100, limit_bytes=LIMIT_BYTES)
        assert await accounts.total_bytes("alice") == 100
    for _ in range(3):
        await accounts.settle("alice", "a")
        assert await accounts.total_bytes("alice") == 100
    assert await accounts.total_bytes("bob") == 0


async def test_the_limit_holds_however_many_come_at_once(accounts: Accounts) -> None:
    outcomes = await asyncio.gather(*(put(accounts, f"{i}") for i in range(15)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, UploadRefused)]
    assert len(refused) == 5
    assert {error.code for error in refused} == {"storage_full"}
    assert "1000" in refused[0].message
    assert await accounts.total_bytes("alice") == LIMIT_BYTES


async def test_what_did_not_come_after_all_is_forgotten(accounts: Accounts) -> None:
    await put(accounts, "a")
    await accounts.begin("alice", "b", 50, limit_bytes=LIMIT_BYTES)
    for _ in range(2):
        await accounts.forget("alice", "b")
    assert await accounts.total_bytes("alice") == 100


async def test_of_several_who_take_it_away_one_counts_and_it_may_be_said_by_all(accounts: Accounts) -> None:
    await put(accounts, "a")
    await put(accounts, "b")
    await accounts.intend("alice", "a", "me", 100)
    await accounts.intend("alice", "a", "you", 100)
    assert await accounts.total_bytes("alice") == 200
    await accounts.leave("alice", "you")
    for _ in range(3):
        await accounts.end("alice", "a", "me")
        await accounts.forget("alice", "a")
    await accounts.end("alice", "a", "you")
    assert await accounts.total_bytes("alice") == 100


async def test_an_intention_that_came_to_nothing_takes_nothing(accounts: Accounts) -> None:
    await put(accounts, "a")
    await accounts.intend("alice", "a", "one who died", 100)
    await accounts.forget("alice", "a")
    await accounts.end("alice", "a", "one who died")
    assert await accounts.total_bytes("alice") == 100


async def test_what_goes_before_it_was_settled_leaves_nothing_behind(accounts: Accounts) -> None:
    await accounts.begin("alice", "a", 100, limit_bytes=LIMIT_BYTES)
    await accounts.intend("alice", "a", "me", 100)
    for step in (
        accounts.end("alice", "a", "me"),
        accounts.forget("alice", "a"),
        accounts.settle("alice", "a"),  # by whoever brought it and was away for long
    ):
        await step
        assert await accounts.total_bytes("alice") == 0
