"""The gate to MongoDB: what is scoped to a tenant never returns, changes, counts or deletes another's documents."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from configs.settings import MongoSettings
from serving.errors import Conflict, Unavailable
from serving.mongo import INDEXES, Collection, Mongo, past, under


@pytest.fixture
def alice(mongo: Mongo) -> Collection:
    return mongo.of_tenant("jobs", "alice")


@pytest.fixture
def bob(mongo: Mongo) -> Collection:
    return mongo.of_tenant("jobs", "bob")


async def stored(raw: Any) -> list[dict[str, Any]]:
    return await raw["jobs"].find({}).sort([("_id", 1)]).to_list(100)


async def test_insert_stamps_the_tenant(alice: Collection, raw: Any) -> None:
    await alice.insert({"_id": "1", "value": 1})
    assert await stored(raw) == [{"_id": "1", "value": 1, "tenant": "alice"}]


async def test_insert_of_an_id_that_exists_is_a_conflict_even_across_tenants(
    alice: Collection, bob: Collection
) -> None:
    await alice.insert({"_id": "1"})
    with pytest.raises(Conflict):
        await alice.insert({"_id": "1"})
    with pytest.raises(Conflict):
        await bob.insert({"_id": "1"})


async def test_find_one_does_not_see_another_tenants_document(alice: Collection, bob: Collection) -> None:
    await alice.insert({"_id": "1"})
    assert (await alice.find_one({"_id": "1"})) == {"_id": "1", "tenant": "alice"}
    assert await bob.find_one({"_id": "1"}) is None
    assert await bob.find_one({"$or": [{"tenant": "alice"}, {"_id": "1"}]}) is None


async def test_find_does_not_see_another_tenants_documents(alice: Collection, bob: Collection) -> None:
    await alice.insert({"_id": "1"})
    await bob.insert({"_id": "2"})
    assert [d["_id"] for d in await bob.find({}, sort=[("_id", 1)], limit=10)] == ["2"]
    either = {"$or": [{"_id": {"$in": ["1", "2"]}}, {"tenant": {"$exists": True}}]}
    assert [d["_id"] for d in await bob.find(either, sort=[("_id", 1)], limit=10)] == ["2"]


async def test_update_one_does_not_change_another_tenants_document(
    alice: Collection, bob: Collection, raw: Any
) -> None:
    await alice.insert({"_id": "1", "value": 1})
    assert await bob.update_one({"_id": "1"}, {"$set": {"value": 2}}) is False
    assert await stored(raw) == [{"_id": "1", "value": 1, "tenant": "alice"}]
    assert await alice.update_one({"_id": "1"}, {"$set": {"value": 2}}) is True
    assert (await stored(raw))[0]["value"] == 2


async def test_find_one_and_update_does_not_change_another_tenants_document(
    alice: Collection, bob: Collection, raw: Any
) -> None:
    await alice.insert({"_id": "1", "value": 1})
    assert await bob.find_one_and_update({"_id": "1"}, {"$inc": {"value": 1}}) is None
    assert await bob.find_one_and_update({}, {"$inc": {"value": 1}}, sort=[("_id", 1)]) is None
    assert await stored(raw) == [{"_id": "1", "value": 1, "tenant": "alice"}]


async def test_delete_one_does_not_delete_another_tenants_document(
    alice: Collection, bob: Collection, raw: Any
) -> None:
    await alice.insert({"_id": "1"})
    assert await bob.delete_one({"_id": "1"}) is False
    assert await bob.delete_one({}) is False
    assert len(await stored(raw)) == 1


async def test_count_does_not_count_another_tenants_documents(alice: Collection, bob: Collection) -> None:
    await alice.insert({"_id": "1"})
    assert await bob.count({}) == 0
    assert await alice.count({}) == 1


async def test_a_count_takes_plain_conditions_only(bob: Collection) -> None:
    """The embedded server takes the brackets off an $or, and would count what another tenant has."""
    with pytest.raises(AssertionError):
        await bob.count({"$or": [{"_id": "1"}, {"tenant": "alice"}]})


@pytest.mark.parametrize("named", ["alice", "", None, {"$exists": True}, {"$in": ["alice", "bob"]}])
async def test_naming_another_tenant_in_a_query_is_an_error(alice: Collection, bob: Collection, named: Any) -> None:
    await alice.insert({"_id": "1"})
    query = {"tenant": named}
    with pytest.raises(AssertionError):
        await bob.find_one(query)
    with pytest.raises(AssertionError):
        await bob.find(query, sort=[("_id", 1)], limit=1)
    with pytest.raises(AssertionError):
        await bob.update_one(query, {"$set": {"value": 1}})
    with pytest.raises(AssertionError):
        await bob.find_one_and_update(query, {"$set": {"value": 1}})
    with pytest.raises(AssertionError):
        await bob.delete_one(query)
    with pytest.raises(AssertionError):
        await bob.count(query)


async def test_naming_another_tenant_in_a_document_is_an_error(bob: Collection, raw: Any) -> None:
    with pytest.raises(AssertionError):
        await bob.insert({"_id": "1", "tenant": "alice"})
    assert await stored(raw) == []


@pytest.mark.parametrize(
    "update", [{"$set": {"tenant": "alice"}}, {"$unset": {"tenant": ""}}, {"$set": {"value": 1}, "$inc": {"tenant": 1}}]
)
async def test_an_update_cannot_move_a_document_to_another_tenant(
    bob: Collection, raw: Any, update: dict[str, Any]
) -> None:
    await bob.insert({"_id": "1"})
    with pytest.raises(AssertionError):
        await bob.update_one({"_id": "1"}, update)
    with pytest.raises(AssertionError):
        await bob.find_one_and_update({"_id": "1"}, update)
    assert await stored(raw) == [{"_id": "1", "tenant": "bob"}]


async def test_a_write_may_not_filter_by_or(bob: Collection) -> None:
    """The embedded server joins $or with nothing else when it writes: the tenant itself would be forgotten."""
    query = {"$or": [{"_id": "1"}, {"_id": "2"}]}
    with pytest.raises(AssertionError):
        await bob.update_one(query, {"$set": {"value": 1}})
    with pytest.raises(AssertionError):
        await bob.find_one_and_update(query, {"$set": {"value": 1}})
    with pytest.raises(AssertionError):
        await bob.delete_one(query)


async def test_ones_own_tenant_may_be_named(bob: Collection) -> None:
    await bob.insert({"_id": "1", "tenant": "bob"})
    assert await bob.count({"tenant": "bob"}) == 1


async def test_nobody_is_no_tenant_and_a_whim_is_no_reason(mongo: Mongo) -> None:
    with pytest.raises(AssertionError):
        mongo.of_tenant("jobs", "")
    with pytest.raises(AssertionError):
        mongo.across_tenants("jobs", "curiosity")


async def test_find_gives_the_wanted_fields_and_never_another_tenants_document(
    alice: Collection, bob: Collection
) -> None:
    await alice.insert({"_id": "1", "line": "m/1/alice/1", "value": 1})
    await bob.insert({"_id": "2", "line": "m/1/bob/2", "value": 2})
    anybodys = {"line": under("m/")}
    assert await bob.find(anybodys, sort=[("line", 1)], limit=9, fields=("line",)) == [
        {"_id": "2", "line": "m/1/bob/2"}
    ]
    (whole,) = await alice.find(anybodys, sort=[("line", 1)], limit=9)
    assert whole == {"_id": "1", "line": "m/1/alice/1", "value": 1, "tenant": "alice"}


@given(prefix=st.text(max_size=6).map(lambda text: text + "/"), others=st.lists(st.text(max_size=9), max_size=20))
def test_what_is_under_a_prefix_begins_with_it_and_nothing_else_does(prefix: str, others: list[str]) -> None:
    limits = under(prefix)
    assert limits["$lt"] == past(prefix)
    for text in [*others, *(prefix + other for other in others), prefix, prefix[:-1], past(prefix)]:
        assert (limits["$gte"] <= text < limits["$lt"]) is text.startswith(prefix)


async def test_every_index_is_of_the_fields_that_queries_of_the_queue_range_over(mongo: Mongo) -> None:
    """The embedded server uses one for a range of its first field, and for nothing else."""
    fields = {keys[0][0] for keys in INDEXES["jobs"]}
    assert fields == {"line", "waits_of", "wake_at", "tidy_at", "owed_at", "tenant_at"}
    assert all(len(keys) == 1 for keys in INDEXES["jobs"])


async def test_across_tenants_sees_all(mongo: Mongo, alice: Collection, bob: Collection) -> None:
    await alice.insert({"_id": "1"})
    await bob.insert({"_id": "2"})
    assert await mongo.across_tenants("jobs", "count_queue").count({}) == 2


async def test_find_one_and_update_gives_the_document_after(alice: Collection) -> None:
    await alice.insert({"_id": "1", "value": 1})
    assert await alice.find_one_and_update({"_id": "1"}, {"$inc": {"value": 1}}) == {
        "_id": "1",
        "value": 2,
        "tenant": "alice",
    }


async def test_indexes_are_made_as_stated_and_can_be_made_again(mongo: Mongo, raw: Any) -> None:
    await mongo.make_indexes()
    for name, indexes in INDEXES.items():
        if not indexes:
            continue
        # The fields only: the embedded server tells every direction as ascending.
        made = {tuple(index["key"]) async for index in await raw[name].list_indexes()}
        assert {tuple(field for field, _ in keys) for keys in indexes} <= made


async def test_a_database_that_does_not_answer_is_unavailable_within_the_timeout() -> None:
    gate = Mongo(MongoSettings(url=SecretStr("mongodb://127.0.0.1:1/?directConnection=true"), timeout_s=0.3))
    jobs = gate.of_tenant("jobs", "alice")
    try:
        outcomes = await asyncio.gather(
            gate.ping(),
            gate.make_indexes(),
            jobs.insert({"_id": "1"}),
            jobs.find_one({}),
            jobs.find({}, sort=[("_id", 1)], limit=1),
            jobs.update_one({}, {"$set": {"value": 1}}),
            jobs.find_one_and_update({}, {"$set": {"value": 1}}),
            jobs.delete_one({}),
            jobs.count({}),
            return_exceptions=True,
        )
    finally:
        await gate.close()
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 9
    assert {(outcome.status, outcome.code) for outcome in outcomes} == {(503, "database_unavailable")}


async def test_a_cancellation_is_never_swallowed(alice: Collection) -> None:
    """pymongo alone swallows about every third that comes while it reads: a cancelled loop would go on for ever."""
    swallowed = 0
    for attempt in range(150):
        asking = asyncio.create_task(alice.find({}, sort=[("_id", 1)], limit=5))
        await asyncio.sleep(attempt % 50 * 3e-5)
        if asking.cancel():
            await asyncio.wait({asking})
            swallowed += not asking.cancelled()
    assert swallowed == 0
