"""IdempotencyKeys: a key stands for one id, whoever reserves it, whenever, and through every crash."""

import asyncio
import time
from typing import Any

import pytest

from pipelines.request import LoraChoice
from serving.jobs.idempotency import IdempotencyKeys, KeyReused, Reservation, fingerprint_of
from serving.jobs.inputs import EditWish, InputPicture
from serving.jobs.wish import ImageWish
from serving.mongo import Mongo

KEEP_S = 3_600.0
NUM_PAIRS = 50


@pytest.fixture
def keys(mongo: Mongo) -> IdempotencyKeys:
    return IdempotencyKeys(mongo, keep_s=KEEP_S)


async def grow_old(raw: Any) -> None:
    await raw["idempotency_keys"].update_many({}, {"$set": {"created_at": time.time() - KEEP_S - 1}})


async def test_a_free_key_stands_for_nothing_and_a_reserved_one_for_its_first_id(keys: IdempotencyKeys) -> None:
    assert await keys.find("alice", "k", fingerprint="f") is None
    assert await keys.reserve("alice", "k", fingerprint="f", new_id="a") == Reservation("a", is_new=True)
    assert await keys.reserve("alice", "k", fingerprint="f", new_id="b") == Reservation("a", is_new=False)
    assert await keys.find("alice", "k", fingerprint="f") == Reservation("a", is_new=False)


async def test_another_request_with_the_same_key_is_refused_and_changes_nothing(keys: IdempotencyKeys) -> None:
    await keys.reserve("alice", "k", fingerprint="f", new_id="a")
    with pytest.raises(KeyReused) as caught:
        await keys.reserve("alice", "k", fingerprint="g", new_id="b")
    assert (caught.value.status, caught.value.code) == (409, "idempotency_key_reused")
    with pytest.raises(KeyReused):
        await keys.find("alice", "k", fingerprint="g")
    assert (await keys.reserve("alice", "k", fingerprint="f", new_id="c")).id == "a"


async def test_a_key_belongs_to_its_tenant(keys: IdempotencyKeys) -> None:
    await keys.reserve("alice", "k", fingerprint="f", new_id="a")
    assert await keys.find("bob", "k", fingerprint="f") is None
    assert (await keys.reserve("bob", "k", fingerprint="g", new_id="b")).is_new


async def test_of_many_who_reserve_a_key_at_once_one_does(keys: IdempotencyKeys, mongo: Mongo) -> None:
    """Through two connections, as two processes would."""
    others = IdempotencyKeys(mongo, keep_s=KEEP_S)
    for number in range(NUM_PAIRS):
        both = [
            ring.reserve("alice", f"k{number}", fingerprint="f", new_id=new_id)
            for ring, new_id in ((keys, "a"), (others, "b"))
        ]
        first, second = await asyncio.gather(*both)
        assert first.id == second.id
        assert first.is_new is not second.is_new


async def test_an_old_key_is_free_for_any_request(keys: IdempotencyKeys, raw: Any) -> None:
    await keys.reserve("alice", "k", fingerprint="f", new_id="a")
    await grow_old(raw)
    assert await keys.find("alice", "k", fingerprint="g") is None
    assert await keys.reserve("alice", "k", fingerprint="g", new_id="b") == Reservation("b", is_new=True)
    assert await keys.find("alice", "k", fingerprint="g") == Reservation("b", is_new=False)


async def test_of_many_who_take_an_old_key_over_at_once_one_does(keys: IdempotencyKeys, raw: Any) -> None:
    for number in range(NUM_PAIRS):
        await keys.reserve("alice", f"k{number}", fingerprint="old", new_id="old")
    await grow_old(raw)
    for number in range(NUM_PAIRS):
        took = await asyncio.gather(
            *(keys.reserve("alice", f"k{number}", fingerprint="f", new_id=new_id) for new_id in "abc")
        )
        assert len({held.id for held in took}) == 1
        assert [held.is_new for held in took].count(True) == 1


async def test_old_keys_are_deleted_a_few_at_a_time_and_young_ones_stay(keys: IdempotencyKeys, raw: Any) -> None:
    for number in range(5):
        await keys.reserve("alice" if number % 2 else "bob", f"k{number}", fingerprint="f", new_id="old")
    await grow_old(raw)
    await keys.reserve("alice", "young", fingerprint="f", new_id="a")
    assert [await keys.delete_old(limit=3) for _ in range(3)] == [3, 2, 0]
    assert await keys.find("alice", "young", fingerprint="f") == Reservation("a", is_new=False)
    assert await raw["idempotency_keys"].count_documents({}) == 1


async def test_a_key_that_is_deleted_while_it_is_reserved_is_reserved_anew(keys: IdempotencyKeys, raw: Any) -> None:
    for number in range(NUM_PAIRS):
        await keys.reserve("alice", f"k{number}", fingerprint="f", new_id="old")
    await grow_old(raw)
    reserving = (keys.reserve("alice", f"k{number}", fingerprint="f", new_id="new") for number in range(NUM_PAIRS))
    *reserved, _ = await asyncio.gather(*reserving, keys.delete_old(limit=NUM_PAIRS))
    assert {held.id for held in reserved} == {"new"}
    found = [await keys.find("alice", f"k{number}", fingerprint="f") for number in range(NUM_PAIRS)]
    assert found == [Reservation("new", is_new=False)] * NUM_PAIRS


def test_equal_wishes_have_one_fingerprint() -> None:
    wish = ImageWish("a red apple", metadata={"a": "1", "b": "2"})
    again = ImageWish("a red apple", metadata={"b": "2", "a": "1"})
    assert fingerprint_of("/route", wish) == fingerprint_of("/route", again)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a green apple"},
        {"seed": 0},
        {"n": 2},
        {"priority": "low"},
        {"metadata": {"a": "2"}},
        {"expires_in_s": 60},
        {"webhook_url": "https://example.org"},
        {"loras": (LoraChoice("style"),)},
        {"edit": EditWish(InputPicture(b"other", "image/png", 64, 64, 255))},
        {"edit": EditWish(InputPicture(b"bytes", "image/png", 64, 64, 255), strength=0.5)},
        {"edit": EditWish(*[InputPicture(b"bytes", "image/png", 64, 64, 255)] * 2)},
    ],
)
def test_another_wish_has_another_fingerprint(change: dict[str, Any]) -> None:
    said: dict[str, Any] = {"prompt": "a red apple", "metadata": {"a": "1"}}
    if "edit" in change:
        said["edit"] = EditWish(InputPicture(b"bytes", "image/png", 64, 64, 255))
    assert fingerprint_of("/route", ImageWish(**said)) != fingerprint_of("/route", ImageWish(**said | change))


def test_another_route_has_another_fingerprint() -> None:
    assert fingerprint_of("/a", ImageWish("x")) != fingerprint_of("/b", ImageWish("x"))


def test_a_field_that_was_left_open_does_not_count() -> None:
    """A later version may know more fields, and a request repeated across an update is still the same."""
    assert fingerprint_of("/a", ImageWish("x", seed=None)) == fingerprint_of("/a", ImageWish("x"))


def test_a_prompt_that_no_text_can_carry_has_a_fingerprint_too() -> None:
    assert fingerprint_of("/a", ImageWish("\ud800")) != fingerprint_of("/a", ImageWish("\ud801"))
