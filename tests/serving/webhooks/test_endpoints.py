"""Endpoints in a true MongoDB: a tenant's own, within a limit, their secrets made once and replaced with care."""

import asyncio

import pytest

from serving.errors import BadInput, Conflict, NotFound
from serving.mongo import Mongo
from serving.webhooks.endpoint import Endpoint
from tests.serving.webhooks.parts import URL, webhooks


async def test_all_who_ask_for_the_default_endpoint_at_once_get_one_secret(mongo: Mongo) -> None:
    store = webhooks(mongo).endpoints
    found = await asyncio.gather(*(store.default("alice") for _ in range(8)))
    assert len({endpoint.secret for endpoint in found}) == 1
    assert (await store.default("bob")).secret != found[0].secret
    assert await store.list("alice") == []


async def test_of_two_who_rotate_a_secret_at_once_no_secret_is_lost(mongo: Mongo) -> None:
    store = webhooks(mongo).endpoints
    made = await store.create("alice", URL, ["job.failed"])
    outcomes = await asyncio.gather(*(store.rotate_secret("alice", made.id) for _ in range(4)), return_exceptions=True)
    told = {outcome.secret for outcome in outcomes if isinstance(outcome, Endpoint)}
    assert told
    assert all(isinstance(outcome, Endpoint | Conflict) for outcome in outcomes)
    assert told | {made.secret} >= set((await store.get("alice", made.id)).signing_secrets(0.0))
    assert made.secret in (await store.get("alice", made.id)).signing_secrets(0.0)


async def test_an_endpoint_is_its_tenants_alone(mongo: Mongo) -> None:
    store = webhooks(mongo).endpoints
    made = await store.create("alice", URL, ["job.failed", "job.failed"])
    assert made.events == ("job.failed",)
    for call in (
        store.get("bob", made.id),
        store.change("bob", made.id, is_on=False),
        store.rotate_secret("bob", made.id),
        store.delete("bob", made.id),
    ):
        with pytest.raises(NotFound):
            await call
    assert await store.list("alice") == [made]


async def test_an_endpoint_that_leads_elsewhere_by_now_is_not_switched_off_for_what_the_old_place_said(
    mongo: Mongo,
) -> None:
    store = webhooks(mongo).endpoints
    made = await store.create("alice", URL, ["job.failed"])
    await store.change("alice", made.id, url="https://new.test/")
    await store.switch_off(made, "gone")
    assert (await store.get("alice", made.id)).is_on


async def test_there_are_no_more_endpoints_than_allowed(mongo: Mongo) -> None:
    store = webhooks(mongo, max_endpoints=2).endpoints
    for _ in range(2):
        await store.admit("alice", URL)
        await store.create("alice", URL, ["job.failed"])
    with pytest.raises(Conflict, match="2 webhook endpoints"):
        await store.admit("alice", URL)
    await store.admit("bob", URL)


async def test_an_endpoint_made_again_under_its_id_is_the_first(mongo: Mongo) -> None:
    store = webhooks(mongo).endpoints
    first = await store.create("alice", URL, ["job.failed"], endpoint_id="we_1")
    again = await store.create("alice", f"{URL}2", ["job.succeeded"], endpoint_id="we_1")
    assert (again.id, again.url, again.secret) == (first.id, URL, first.secret)


async def test_a_url_inside_is_refused_naming_the_field(mongo: Mongo) -> None:
    store = webhooks(mongo).endpoints
    for url in ("http://127.0.0.1/", "http://169.254.169.254/latest/meta-data", "ftp://hooks.test/"):
        with pytest.raises(BadInput) as refusal:
            await store.admit("alice", url)
        assert (refusal.value.param, refusal.value.code) == ("url", "bad_url")
