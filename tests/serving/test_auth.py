"""Keys: only hashes are stored, the first admin key can be replaced, a revoked key stops."""

from typing import Any

import pytest

from serving.errors import NotAuthenticated, NotFound
from serving.mongo import Mongo
from serving.tenancy.auth import CACHE_S, KeyRing, hash_key, new_key
from serving.tenancy.tenants import Tenants
from tests.serving.conftest import OpenHouse


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_long_random_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("dk-") and len(key) >= 46 for key in keys)


async def test_a_new_key_is_recognised_as_its_tenant_and_role(mongo: Mongo) -> None:
    ring = KeyRing(mongo)
    made, secret = await ring.create("alice", name="laptop", role="member")
    caller = await KeyRing(mongo).authenticate(secret)
    assert (caller.tenant, caller.role, caller.key_id, caller.is_admin) == ("alice", "member", made.id, False)
    assert made.last_four == secret[-4:]


async def test_no_document_of_the_whole_database_holds_a_secret(mongo: Mongo, raw: Any) -> None:
    ring = KeyRing(mongo)
    secrets = [(await ring.create("alice", name="laptop", role="member"))[1], "dk-first-admin-key-of-this-test"]
    await ring.ensure_bootstrap("default", secrets[1])
    documents = [d for name in await raw.list_collection_names() for d in await raw[name].find({}).to_list(100)]
    assert {d["_id"] for d in documents} == {hash_key(secret) for secret in secrets}
    for secret in secrets:
        assert secret not in repr(documents)
        assert secret.removeprefix("dk-") not in repr(documents)


@pytest.mark.parametrize("key", ["", "dk-", "dk-wrong", "ü\ud800", "x" * 100_000, "$where"])
async def test_a_wrong_key_is_not_authenticated_and_the_message_does_not_repeat_it(mongo: Mongo, key: str) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        await KeyRing(mongo).authenticate(key)
    assert not key.removeprefix("dk-") or key not in caught.value.message


async def test_the_hash_of_a_key_does_not_open_anything(mongo: Mongo) -> None:
    ring = KeyRing(mongo)
    _, secret = await ring.create("alice", name="laptop", role="member")
    with pytest.raises(NotAuthenticated):
        await ring.authenticate(hash_key(secret))


async def test_list_shows_a_tenants_own_keys_newest_first(mongo: Mongo) -> None:
    ring = KeyRing(mongo)
    for name in ("old", "new"):
        await ring.create("alice", name=name, role="member")
    await ring.create("bob", name="bob's", role="member")
    assert [key.name for key in await ring.list("alice")] == ["new", "old"]


async def test_a_revoked_key_stops_at_once_on_the_process_that_revoked_it(mongo: Mongo) -> None:
    ring = KeyRing(mongo)
    made, secret = await ring.create("alice", name="laptop", role="member")
    await ring.authenticate(secret)
    await ring.revoke("alice", made.id)
    with pytest.raises(NotAuthenticated):
        await ring.authenticate(secret)


async def test_a_revoked_key_stops_elsewhere_after_the_cache_time(mongo: Mongo) -> None:
    clock = Clock()
    ring, elsewhere = KeyRing(mongo), KeyRing(mongo, clock=clock)
    made, secret = await ring.create("alice", name="laptop", role="member")
    await elsewhere.authenticate(secret)
    await ring.revoke("alice", made.id)
    clock.now += CACHE_S - 0.1
    assert (await elsewhere.authenticate(secret)).tenant == "alice"
    clock.now += 0.2
    with pytest.raises(NotAuthenticated):
        await elsewhere.authenticate(secret)


async def test_another_tenant_cannot_revoke_a_key(mongo: Mongo) -> None:
    ring = KeyRing(mongo)
    made, secret = await ring.create("alice", name="laptop", role="member")
    with pytest.raises(NotFound):
        await ring.revoke("bob", made.id)
    assert (await KeyRing(mongo).authenticate(secret)).tenant == "alice"


async def test_the_first_admin_key_can_be_set_again_and_again(mongo: Mongo) -> None:
    ring = KeyRing(mongo)
    for _ in range(3):
        await ring.ensure_bootstrap("default", "dk-one")
    assert len(await ring.list("default")) == 1
    assert (await ring.authenticate("dk-one")).is_admin


async def test_a_new_first_admin_key_replaces_the_earlier_one_and_no_other(mongo: Mongo) -> None:
    ring = KeyRing(mongo)
    _, other = await ring.create("default", name="second admin", role="admin")
    await ring.ensure_bootstrap("default", "dk-one")
    await ring.ensure_bootstrap("default", "dk-two")
    fresh = KeyRing(mongo)
    with pytest.raises(NotAuthenticated):
        await fresh.authenticate("dk-one")
    assert (await fresh.authenticate("dk-two")).is_admin
    assert (await fresh.authenticate(other)).is_admin


async def test_a_key_made_by_one_house_opens_the_next_over_the_same_database(houses: OpenHouse) -> None:
    first = await houses()
    _, secret = await first.services.keys.create("alice", name="laptop", role="member")
    second = await houses()
    async with second.client(secret) as client:
        assert (await client.get("/v1/jobs")).status_code == 200


async def test_ensuring_a_tenant_twice_keeps_the_first(mongo: Mongo) -> None:
    tenants = Tenants(mongo)
    await tenants.create("alice", name="Alice Ltd")
    await tenants.ensure("alice")
    assert [(tenant.id, tenant.name) for tenant in await tenants.list()] == [("alice", "Alice Ltd")]
    assert await tenants.find("bob") is None
