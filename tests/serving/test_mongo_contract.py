"""The subset of MongoDB that Darkroom uses, checked against the server that runs the tests.

find          equality, < <= > >=, $in, $exists, $or; sort by several keys, limit; all fields, or _id and those named
ranges        of one indexed field, text or number, with a sort by it: found, counted and taken in order
writes, count filter by equality, < <= > >=, $in, $exists; never by $or, which not every server joins with the rest
update        $set of scalars, whole lists and sub-documents; $inc; $unset
one step      find_one_and_update without upsert: the document after the update, or None
and           insert with a duplicate _id refused, update_one, delete_one, the count command, compound indexes
values        text, int, float, None; booleans through bool(); times are floats; seeds are text; a float that was read
              is equal to what is stored, but what an update sets may be rounded to 15 digits
Nothing else is allowed in serving/: servers differ outside of it.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from pymongo import ASCENDING, DESCENDING, AsyncMongoClient, ReturnDocument
from pymongo.errors import DuplicateKeyError

from configs.settings import MongoSettings

NUM_CLAIMERS, NUM_JOBS = 8, 200


@pytest_asyncio.fixture
async def things(raw: Any) -> AsyncIterator[Any]:
    yield raw["things"]


@pytest_asyncio.fixture(params=["plain", "indexed"])
async def ranked(request: pytest.FixtureRequest, things: Any) -> Any:
    """Six documents a..f: rank 1 1 2 2 3 3, age 10 20 30 40 50 60; only a, c and e have a colour."""
    if request.param == "indexed":
        await things.create_index([("rank", ASCENDING), ("age", DESCENDING)])
        await things.create_index([("colour", ASCENDING), ("rank", ASCENDING), ("age", ASCENDING)])
    for index, name in enumerate("abcdef"):
        document: dict[str, Any] = {"_id": name, "rank": 1 + index // 2, "age": 10.0 * (index + 1)}
        if index % 2 == 0:
            document["colour"] = "red" if name == "a" else "blue"
        await things.insert_one(document)
    return things


async def ids(things: Any, query: dict[str, Any]) -> list[str]:
    return [d["_id"] for d in await things.find(query).sort([("_id", ASCENDING)]).to_list(100)]


async def test_a_second_document_with_the_same_id_is_refused_and_the_first_stays(things: Any) -> None:
    await things.insert_one({"_id": "x", "value": 1})
    with pytest.raises(DuplicateKeyError):
        await things.insert_one({"_id": "x", "value": 2})
    assert await things.find_one({"_id": "x"}) == {"_id": "x", "value": 1}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "abcdef"),
        ({"rank": 2}, "cd"),
        ({"rank": 2, "age": 40.0}, "d"),
        ({"age": {"$lt": 30.0}}, "ab"),
        ({"age": {"$lte": 30.0}}, "abc"),
        ({"age": {"$gt": 40.0}}, "ef"),
        ({"age": {"$gte": 40.0}}, "def"),
        ({"age": {"$gte": 20.0, "$lt": 50.0}}, "bcd"),
        ({"_id": {"$in": ["a", "f", "z"]}}, "af"),
        ({"_id": {"$in": []}}, ""),
        ({"colour": {"$exists": True}}, "ace"),
        ({"colour": {"$exists": False}}, "bdf"),
        ({"$or": [{"rank": 1}, {"age": {"$gt": 50.0}}]}, "abf"),
        ({"rank": 3, "$or": [{"colour": "blue"}, {"age": 10.0}]}, "e"),
        ({"$or": [{"age": {"$lt": 30.0}}, {"age": 30.0, "_id": {"$lt": "d"}}]}, "abc"),
        ({"_id": "nobody"}, ""),
    ],
)
async def test_find_matches(ranked: Any, query: dict[str, Any], found: str) -> None:
    assert await ids(ranked, query) == list(found)
    if "$or" not in query:
        assert (await ranked.database.command("count", ranked.name, query=query))["n"] == len(found)


async def test_find_sorts_by_several_keys_and_then_limits(ranked: Any) -> None:
    order = [("rank", DESCENDING), ("age", ASCENDING)]
    assert [d["_id"] for d in await ranked.find({}).sort(order).to_list(10)] == list("efcdab")
    assert [d["_id"] for d in await ranked.find({}).sort(order).limit(3).to_list(3)] == list("efc")
    newest = [("age", DESCENDING), ("_id", DESCENDING)]
    assert [d["_id"] for d in await ranked.find({"rank": {"$in": [1, 2]}}).sort(newest).limit(2).to_list(2)] == [
        "d",
        "c",
    ]


async def test_set_writes_scalars_lists_and_sub_documents_and_leaves_the_rest(things: Any) -> None:
    await things.insert_one({"_id": "x", "kept": "as it was", "list": [{"old": 1}], "sub": {"old": 1}, "gone": None})
    changes = {
        "text": "ü ☀ \u202e\n\"quoted\" 'and' $signs.with.dots",
        "whole": 3,
        "part": 0.1,
        "gone": "now here",
        "nothing": None,
        "list": [{"key": "a/b", "seed": "1"}, {"key": "c", "seed": "2"}],
        "empty": [],
        "sub": {"images": [{"num_bytes": 5}], "engine_s": 0.25},
    }
    outcome = await things.update_one({"_id": "x"}, {"$set": changes})
    assert outcome.matched_count == 1
    assert await things.find_one({"_id": "x"}) == {"_id": "x", "kept": "as it was", **changes}


async def test_update_of_nobody_matches_nothing_and_makes_nothing(things: Any) -> None:
    outcome = await things.update_one({"_id": "nobody"}, {"$set": {"value": 1}})
    assert outcome.matched_count == 0
    assert await things.count_documents({}) == 0


async def test_an_update_that_changes_nothing_still_matches(things: Any) -> None:
    await things.insert_one({"_id": "x", "value": 1})
    assert (await things.update_one({"_id": "x"}, {"$set": {"value": 1}})).matched_count == 1


async def test_inc_and_unset(things: Any) -> None:
    await things.insert_one({"_id": "x", "fence": 2, "old": "value"})
    await things.update_one({"_id": "x"}, {"$inc": {"fence": 1, "new": 5}, "$unset": {"old": ""}})
    assert await things.find_one({"_id": "x"}) == {"_id": "x", "fence": 3, "new": 5}


async def test_find_one_and_update_returns_the_document_after_the_update(things: Any) -> None:
    await things.insert_one({"_id": "x", "status": "queued", "fence": 0, "kept": [1, 2]})
    after = await things.find_one_and_update(
        {"_id": "x", "status": "queued"},
        {"$set": {"status": "running", "lease_until": 9.5}, "$inc": {"fence": 1}},
        return_document=ReturnDocument.AFTER,
    )
    assert after == {"_id": "x", "status": "running", "fence": 1, "kept": [1, 2], "lease_until": 9.5}
    assert await things.find_one({"_id": "x"}) == after


async def test_find_one_and_update_of_nobody_is_none_and_makes_nothing(things: Any) -> None:
    await things.insert_one({"_id": "x", "fence": 3})
    after = await things.find_one_and_update(
        {"_id": "x", "fence": 2}, {"$set": {"value": 1}}, return_document=ReturnDocument.AFTER
    )
    assert after is None
    assert await things.find({}).to_list(10) == [{"_id": "x", "fence": 3}]


async def test_find_one_and_update_takes_the_first_in_sort_order(ranked: Any) -> None:
    taken = [
        await ranked.find_one_and_update(
            {"taken": {"$exists": False}},
            {"$set": {"taken": True}},
            sort=[("rank", DESCENDING), ("age", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )
        for _ in range(7)
    ]
    assert [d["_id"] if d else None for d in taken] == [*"efcdab", None]


# What a write may filter by, and the one document of `ranked` that it must hit, wherever that lies among the others.
WRITE_FILTERS = [
    ({"_id": "d"}, "d"),
    ({"_id": "d", "rank": 2}, "d"),
    ({"rank": 2, "_id": "c"}, "c"),
    ({"_id": "e", "rank": 3, "age": {"$lt": 55.0}}, "e"),
    ({"rank": 3, "age": {"$gt": 55.0}}, "f"),
    ({"_id": {"$in": ["b", "c"]}, "colour": {"$exists": True}}, "c"),
    ({"colour": "blue", "rank": 3}, "e"),
    ({"_id": "d", "rank": 3}, None),
    ({"_id": "e", "age": {"$lt": 45.0}}, None),
    ({"colour": "green"}, None),
]


@pytest.mark.parametrize(("query", "hit"), WRITE_FILTERS)
@pytest.mark.parametrize("way", ["update_one", "find_one_and_update", "delete_one"])
async def test_a_write_hits_the_document_that_matches_all_conditions_and_no_other(
    ranked: Any, way: str, query: dict[str, Any], hit: str | None
) -> None:
    if way == "delete_one":
        await ranked.delete_one(query)
        assert await ids(ranked, {}) == [name for name in "abcdef" if name != hit]
        return
    await getattr(ranked, way)(query, {"$set": {"mark": 1}})
    assert await ids(ranked, {"mark": 1}) == ([] if hit is None else [hit])


async def test_delete_one_deletes_one_that_matches(ranked: Any) -> None:
    assert (await ranked.delete_one({"_id": "a", "rank": 2})).deleted_count == 0
    assert (await ranked.delete_one({"_id": "a", "rank": 1})).deleted_count == 1
    assert await ids(ranked, {}) == list("bcdef")


async def test_compound_indexes_can_be_made_again_and_change_no_answer(ranked: Any) -> None:
    before = await ids(ranked, {"rank": 2, "age": {"$gt": 30.0}})
    for _ in range(2):
        await ranked.create_index([("rank", ASCENDING), ("age", DESCENDING)])
    assert await ids(ranked, {"rank": 2, "age": {"$gt": 30.0}}) == before == ["d"]
    await ranked.insert_one({"_id": "g", "rank": 2, "age": 70.0})
    assert await ids(ranked, {"rank": 2, "age": {"$gt": 30.0}}) == ["d", "g"]


@pytest.mark.parametrize("value", [True, False])
async def test_booleans_keep_their_truth(things: Any, value: bool) -> None:
    await things.insert_one({"_id": "inserted", "flag": value})
    await things.insert_one({"_id": "set"})
    await things.update_one({"_id": "set"}, {"$set": {"flag": value}})
    for name in ("inserted", "set"):
        assert bool((await things.find_one({"_id": name}))["flag"]) is value


@pytest.mark.parametrize("number", [time.time(), 0.1 + 0.2, 1e-9, 1_800_000_000.123_456_7, 0.0, -2.5])
async def test_floats_come_back_to_the_last_bit_and_can_be_asked_for(things: Any, number: float) -> None:
    await things.insert_one({"_id": "x", "at": number, "sub": {"at": number}})
    found = await things.find_one({"at": number})
    assert found is not None
    assert found["at"] == number
    assert found["sub"]["at"] == number
    assert await things.count_documents({"at": {"$lt": number}}) == 0


@pytest.mark.parametrize("way", ["insert", "update_one", "find_one_and_update"])
async def test_a_float_that_was_read_can_be_compared_and_set(things: Any, way: str) -> None:
    """What upkeep rests on: the moment that somebody saw is still there, or it is not."""
    dice = random.Random(way)
    for index in range(60):
        written, name = 1.7e9 + dice.random() * 3e8, f"{index}"
        await things.insert_one({"_id": name, "at": written if way == "insert" else 0.0})
        if way != "insert":
            await getattr(things, way)({"_id": name}, {"$set": {"at": written}})
        read = (await things.find_one({"_id": name}))["at"]
        assert read == pytest.approx(written, abs=1e-5)
        assert (await things.update_one({"_id": name, "at": read + 1e-4}, {"$set": {"seen": 1}})).matched_count == 0
        assert (await things.database.command("count", "things", query={"at": {"$gte": read, "$lte": read}}))["n"] == 1
        assert (await things.update_one({"_id": name, "at": read}, {"$set": {"seen": 1}})).matched_count == 1


async def test_inc_adds_parts_to_whole_numbers_and_to_parts(things: Any) -> None:
    await things.insert_one({"_id": "x", "weight": 1})
    for _ in range(10):
        await things.update_one({"_id": "x"}, {"$inc": {"weight": 0.125}})
    await things.update_one({"_id": "x"}, {"$inc": {"weight": 2.0**64}})
    assert (await things.find_one({"_id": "x"}))["weight"] == pytest.approx(2.0**64 + 2.25, rel=1e-14)


async def test_the_largest_seed_comes_back_as_text(things: Any) -> None:
    text = str(2**63 - 1)
    await things.insert_one({"_id": "x", "request": {"seed": text}})
    assert (await things.find_one({"_id": "x"}))["request"]["seed"] == text


async def test_databases_of_one_server_do_not_see_each_other(mongo_settings: MongoSettings, things: Any) -> None:
    await things.insert_one({"_id": "x"})
    other_name = f"{mongo_settings.database}_other_{uuid.uuid4().hex[:6]}"
    async with AsyncMongoClient(mongo_settings.url.get_secret_value()) as client:
        try:
            assert await client[other_name]["things"].count_documents({}) == 0
        finally:
            await client.drop_database(other_name)


async def test_eight_claimers_never_claim_the_same_job_twice(mongo_settings: MongoSettings, raw: Any) -> None:
    jobs = raw["jobs"]
    names = [f"job_{index:03}" for index in range(NUM_JOBS)]
    for name in names:
        await jobs.insert_one({"_id": name, "status": "queued", "fence": 0})

    async def claim_all(owner: int) -> list[str]:
        won: list[str] = []
        async with AsyncMongoClient(mongo_settings.url.get_secret_value()) as client:
            for name in random.Random(owner).sample(names, NUM_JOBS):
                document = await client[mongo_settings.database]["jobs"].find_one_and_update(
                    {"_id": name, "status": "queued"},
                    {"$set": {"status": "running", "owner": owner}, "$inc": {"fence": 1}},
                    return_document=ReturnDocument.AFTER,
                )
                if document is not None:
                    assert document["owner"] == owner
                    won.append(name)
        return won

    won = await asyncio.gather(*(claim_all(owner) for owner in range(NUM_CLAIMERS)))
    assert sorted(name for names_of_one in won for name in names_of_one) == names
    assert await jobs.count_documents({"status": "running", "fence": 1}) == NUM_JOBS
    for owner, names_of_one in enumerate(won):
        assert await jobs.count_documents({"owner": owner}) == len(names_of_one)
