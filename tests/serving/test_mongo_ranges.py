"""More of the contract with the database: ranges of one field, sorted by it, which every query of the queue is.

The embedded server uses an index for these and for nothing else; a MongoDB must answer them in the same way.
"""

import random
from typing import Any

import pytest
import pytest_asyncio
from pymongo import ASCENDING, DESCENDING, ReturnDocument

PLACES = ["m/1/t-1/a", "m/1/t-1/b", "m/1/t/a", "m/1/t0/a", "m/1/t1/a", "m/2/t/a", "m.5/1/t/a", "m0/1/t/a", "", ""]
PLACE_RANGES = [
    ({"$gt": ""}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"$gte": "m/", "$lt": "m0"}, [0, 1, 2, 3, 4, 5]),
    ({"$gte": "m/1/t/", "$lt": "m/1/t0"}, [2]),
    ({"$gte": "m/1/t-1/", "$lt": "m/1/t-10"}, [0, 1]),
    ({"$gte": "m/1/t0", "$lt": "m0"}, [3, 4, 5]),
    ({"$gte": "m/1/t/a", "$lte": "m/1/t/a"}, [2]),
    ({"$gte": "x/", "$lt": "x0"}, []),
]


@pytest_asyncio.fixture(params=["plain", "indexed"])
async def placed(request: pytest.FixtureRequest, raw: Any) -> Any:
    """A document for each of PLACES, inserted in another order; every second one is `open`."""
    things = raw["things"]
    if request.param == "indexed":
        await things.create_index([("place", ASCENDING)])
        await things.create_index([("at", ASCENDING)])
    for index in random.Random(1).sample(range(len(PLACES)), len(PLACES)):
        is_open = index % 2 == 0
        await things.insert_one({"_id": f"{index}", "place": PLACES[index], "at": float(index), "open": int(is_open)})
    return things


@pytest.mark.parametrize(("range_", "hits"), PLACE_RANGES)
async def test_a_range_of_places_is_found_in_the_order_of_bytes_and_counted(
    placed: Any, range_: dict[str, str], hits: list[int]
) -> None:
    wanted = sorted((PLACES[hit], f"{hit}") for hit in hits)
    for direction, expected in ((ASCENDING, wanted), (DESCENDING, wanted[::-1])):
        found = await placed.find({"place": range_}).sort([("place", direction)]).to_list(20)
        assert [(d["place"], d["_id"]) for d in found] == expected
        first = await placed.find({"place": range_}).sort([("place", direction)]).limit(1).to_list(1)
        assert [d["_id"] for d in first] == [name for _, name in expected[:1]]
    assert (await placed.database.command("count", placed.name, query={"place": range_}))["n"] == len(hits)
    open_ones = {"place": range_, "open": 1}
    assert (await placed.database.command("count", placed.name, query=open_ones))["n"] == sum(
        hit % 2 == 0 for hit in hits
    )


async def test_of_a_document_only_the_named_fields_and_its_id_are_given(placed: Any) -> None:
    found = await placed.find({"place": {"$gt": ""}}, ["place"]).sort([("place", ASCENDING)]).limit(2).to_list(2)
    assert found == [{"_id": "6", "place": "m.5/1/t/a"}, {"_id": "0", "place": "m/1/t-1/a"}]
    (whole,) = await placed.find({"place": "m.5/1/t/a"}, None).to_list(2)
    assert set(whole) == {"_id", "place", "at", "open"}
    (lacking,) = await placed.find({"_id": "6"}, ["nowhere"]).to_list(2)
    assert lacking == {"_id": "6"}


@pytest.mark.parametrize(("range_", "hits"), PLACE_RANGES)
async def test_find_one_and_update_takes_the_first_of_a_range_that_meets_the_other_conditions(
    placed: Any, range_: dict[str, str], hits: list[int]
) -> None:
    wanted = [f"{hit}" for hit in sorted(hits, key=PLACES.__getitem__) if hit % 2 == 0]
    taken = [
        await placed.find_one_and_update(
            {"place": range_, "open": 1},
            {"$set": {"place": "", "open": 0}, "$inc": {"fence": 1}},
            sort=[("place", ASCENDING)],
            return_document=ReturnDocument.AFTER,
        )
        for _ in range(len(wanted) + 1)
    ]
    assert [d["_id"] if d else None for d in taken] == [*wanted, None]
    assert all((d["place"], d["open"], d["fence"]) == ("", 0, 1) for d in taken if d)


async def test_a_range_of_moments_begins_above_zero_and_leaves_out_whoever_has_none(placed: Any) -> None:
    await placed.insert_one({"_id": "none"})
    await placed.insert_one({"_id": "null", "at": None})
    due = {"at": {"$gt": 0, "$lte": 4.0}}
    assert [d["_id"] for d in await placed.find(due).sort([("at", ASCENDING)]).limit(3).to_list(3)] == ["1", "2", "3"]
    assert (await placed.database.command("count", placed.name, query=due))["n"] == 4
