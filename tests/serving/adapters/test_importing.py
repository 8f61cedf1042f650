"""Import and deletion of adapters, cut off at every step: nothing half done is seen, and nothing is left for good."""

import asyncio
import io
import threading
from typing import Any

import pytest

from serving.adapters import store as store_module
from serving.adapters.adapter import Adapter
from serving.adapters.importing import AdapterImporter, AdapterOffer
from serving.adapters.store import AdapterStore
from serving.errors import AppError, BadInput, Conflict, NotFound, TooLarge, Unavailable
from tests.models.lora_bytes import lora_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually


class Killed(BaseException):
    """A process that dies: nobody catches this, and no clean-up of ours runs."""


def importer(house: House, **parts: Any) -> AdapterImporter:
    services = house.services
    return AdapterImporter(
        parts.get("store", services.adapters),
        parts.get("blobs", house.blobs),
        parts.get("checker", services.router),
        services.catalog,
        services.settings,
    )


async def import_one(house: House, seed: int = 0, *, name: str = "style", tenant: str = "alice") -> Adapter:
    adapter, _ = await importer(house).run(tenant, AdapterOffer(name), io.BytesIO(lora_bytes(seed=seed)))
    return adapter


async def documents(house: House, tenant: str = "alice") -> list[dict[str, Any]]:
    return await house.mongo.of_tenant("adapters", tenant).find({}, sort=[("version", 1)], limit=100)


def make_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """All imports that are under way count as dead."""
    monkeypatch.setattr(store_module, "STALE_S", -1.0)


async def test_versions_count_up_and_the_latest_is_the_highest(house: House) -> None:
    for seed in (0, 1, 2):
        assert (await import_one(house, seed)).version == seed + 1
    assert (await house.services.adapters.resolve("alice", "style")).reference == "style@3"
    assert (await house.services.adapters.resolve("alice", "style@2")).version == 2
    assert (await import_one(house, name="other")).version == 1


async def test_imports_of_one_name_at_once_get_numbers_of_their_own(house: House) -> None:
    adapters = await asyncio.gather(*(import_one(house, seed) for seed in range(8)))
    assert sorted(adapter.version for adapter in adapters) == list(range(1, 9))
    assert len({adapter.folder.prefix for adapter in adapters}) == 8
    assert (await house.services.adapters.resolve("alice", "style")).version == 8


async def test_the_same_bytes_at_once_become_one_version(house: House) -> None:
    outcomes = await asyncio.gather(*(import_one(house) for _ in range(5)), return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, Adapter)]
    assert {adapter.reference for adapter in made} == {"style@1"}
    assert {type(outcome) for outcome in outcomes} <= {Adapter, Conflict}
    assert len(await documents(house)) == 1
    assert len(house.blobs.keys) == 2


async def test_the_same_bytes_under_another_name_or_tenant_are_another_adapter(house: House) -> None:
    first, second = await import_one(house), await import_one(house, name="other")
    third = await import_one(house, tenant="bob")
    assert len({adapter.folder.prefix for adapter in (first, second, third)}) == 3


async def test_a_number_is_never_given_again(house: House) -> None:
    adapters = house.services.adapters
    await import_one(house, 0)
    await import_one(house, 1)
    await adapters.delete("alice", "style", 2)
    assert (await adapters.resolve("alice", "style")).version == 1
    assert (await import_one(house, 1)).version == 3
    await adapters.delete("alice", "style")
    assert (await import_one(house, 0)).version == 4


async def test_deletion_leaves_no_object_and_no_document(house: House) -> None:
    for seed in (0, 1):
        await house.services.adapters.kohya_key(await import_one(house, seed))
    kept = await import_one(house, name="other")
    await house.services.adapters.delete("alice", "style")
    assert house.blobs.keys == sorted([kept.folder.weights_key, kept.folder.manifest_key])
    assert [document["name"] for document in await documents(house)] == ["other"]
    with pytest.raises(NotFound):
        await house.services.adapters.delete("alice", "style")


async def test_a_file_that_the_engine_refuses_leaves_nothing_and_costs_no_number(house: House) -> None:
    house.backend.adapter_refusal = "The key 'unet.x' matches nothing."
    with pytest.raises(BadInput, match=r"unet\.x") as caught:
        await import_one(house)
    assert (caught.value.code, caught.value.param) == ("bad_adapter", "file")
    assert (house.blobs.keys, await documents(house)) == ([], [])
    house.backend.adapter_refusal = None
    assert (await import_one(house)).version == 1


async def test_the_engine_sees_the_very_bytes_that_are_published(house: House) -> None:
    adapter = await import_one(house)
    (staged,) = house.backend.checked
    assert staged.sha256 == adapter.manifest.sha256
    assert staged.key == f"temp/{adapter.folder.job}/model.safetensors"
    assert house.blobs.get(adapter.file.key) == lora_bytes()
    assert house.blobs.keys == sorted([adapter.folder.weights_key, adapter.folder.manifest_key])


@pytest.mark.parametrize("trouble", ["router", "storage"])
async def test_what_is_away_is_told_and_nothing_is_left(house: House, trouble: str) -> None:
    if trouble == "router":
        house.router.is_lost = True
    else:
        house.blobs.is_down = True
    with pytest.raises(Unavailable):
        await import_one(house)
    house.router.is_lost = house.blobs.is_down = False
    await house.services.adapters.sweep("alice")
    assert (house.blobs.keys, await documents(house)) == ([], [])


def dies_at(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, *, after: bool = False) -> None:
    """The process is gone at (or just after) this call, and so is its clean-up."""
    original = getattr(target, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if after:
            original(*args, **kwargs)
        raise Killed

    async def dying_async(*args: Any, **kwargs: Any) -> Any:
        if after:
            await original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(target, name, dying_async if asyncio.iscoroutinefunction(original) else dying)


IMPORT_STEPS = ["put_file", "check_adapter", "number", "copy", "put", "delete", "finish"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", IMPORT_STEPS)
async def test_a_crash_in_an_import_shows_nothing_and_is_cleared_away_later(
    house: House, step: str, after: bool
) -> None:
    adapters = house.services.adapters
    owner = {"check_adapter": house.router, "number": adapters, "finish": adapters}.get(step, house.blobs)
    with pytest.MonkeyPatch.context() as crash:
        dies_at(crash, owner, step, after=after)
        dies_at(crash, AdapterStore, "abandon")
        with pytest.raises(Killed):
            await import_one(house)
    is_published = step == "finish" and after
    assert [a.reference for a in await adapters.versions("alice")] == (["style@1"] if is_published else [])
    with pytest.MonkeyPatch.context() as later:
        make_old(later)
        again = await import_one(house)
    assert house.blobs.keys == sorted([again.folder.weights_key, again.folder.manifest_key])
    assert [document["state"] for document in await documents(house)] == ["ready"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["delete", "delete_prefix"])
async def test_a_crash_in_a_deletion_is_finished_by_whoever_comes_next(house: House, step: str, after: bool) -> None:
    adapters = house.services.adapters
    await import_one(house)
    with pytest.MonkeyPatch.context() as crash:
        dies_at(crash, house.blobs, step, after=after)
        with pytest.raises(Killed):
            await adapters.delete("alice", "style")
    with pytest.raises(NotFound):
        await adapters.resolve("alice", "style@1")
    kept = await import_one(house, 1)
    assert kept.version == 2
    assert house.blobs.keys == sorted([kept.folder.weights_key, kept.folder.manifest_key])
    assert len(await documents(house)) == 1


async def test_an_import_that_was_taken_for_dead_cannot_publish(house: House) -> None:
    adapters = house.services.adapters

    class Slow:
        async def check_adapter(self, *args: Any, **kwargs: Any) -> Any:
            with pytest.MonkeyPatch.context() as later:
                make_old(later)
                await adapters.sweep("alice")
            return await house.router.check_adapter(*args, **kwargs)

    with pytest.raises(Conflict, match="given up"):
        await importer(house, checker=Slow()).run("alice", AdapterOffer("style"), io.BytesIO(lora_bytes()))
    assert (house.blobs.keys, await documents(house)) == ([], [])


@pytest.mark.parametrize("step", ["put_file", "copy"])
async def test_a_caller_who_hangs_up_leaves_nothing_even_if_the_store_is_still_writing(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    original, has_begun, may_end = getattr(house.blobs, step), threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> None:
        has_begun.set()
        assert may_end.wait(10)
        original(*args, **kwargs)

    monkeypatch.setattr(house.blobs, step, slow)
    importing = asyncio.create_task(import_one(house))
    await eventually(has_begun.is_set)
    importing.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await importing
    assert (house.blobs.keys, await documents(house)) == ([], [])


async def test_a_young_import_of_another_is_left_alone(house: House) -> None:
    adapters = house.services.adapters
    draft = await adapters.begin("alice", name="style", base_model="emoji-3d", sha256="0" * 64)
    await adapters.sweep("alice")
    assert [document["job"] for document in await documents(house)] == [draft.job]


async def test_storage_that_fails_in_a_deletion_hides_the_version_and_the_retry_removes_it(house: House) -> None:
    adapters = house.services.adapters
    await import_one(house)
    house.blobs.is_down = True
    with pytest.raises(Unavailable) as caught:
        await adapters.delete("alice", "style")
    assert caught.value.code == "storage_unavailable"
    assert await adapters.versions("alice") == []
    house.blobs.is_down = False
    with pytest.raises(NotFound):
        await adapters.delete("alice", "style")
    assert (house.blobs.keys, await documents(house)) == ([], [])


async def test_a_version_deleted_while_it_is_exported_leaves_no_export(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters, adapter = house.services.adapters, await import_one(house)
    put_file, loop = house.blobs.put_file, asyncio.get_running_loop()

    def deleted_first(*args: Any) -> None:
        asyncio.run_coroutine_threadsafe(adapters.delete("alice", "style"), loop).result(10)
        put_file(*args)

    monkeypatch.setattr(house.blobs, "put_file", deleted_first)
    with pytest.raises(NotFound):
        await adapters.kohya_key(adapter)
    assert house.blobs.keys == []


async def test_a_file_over_the_limit_is_refused_before_it_is_stored(houses: OpenHouse) -> None:
    house = await houses(api={"max_adapter_bytes": len(lora_bytes()) - 1})
    with pytest.raises(TooLarge) as caught:
        await import_one(house)
    assert caught.value.param == "file"
    assert house.blobs.keys == []


async def test_a_tenant_may_not_fill_the_list_without_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_VERSIONS", 2)
    await import_one(house, 0)
    await import_one(house, 1)
    with pytest.raises(Conflict, match="2 versions"):
        await import_one(house, 2)
    assert (await import_one(house, 0, tenant="bob")).version == 1


@pytest.mark.parametrize(
    ("offer", "error", "param", "told"),
    [
        (AdapterOffer("Style"), BadInput, "name", "'Style'"),
        (AdapterOffer("emoji-3d"), BadInput, "name", "is the id of a model"),
        (AdapterOffer("style", base_model="sdxl-base"), NotFound, "base_model", "emoji-3d, flux-schnell"),
    ],
)
async def test_an_offer_that_cannot_be_is_refused_before_the_file_is_read(
    house: House, offer: AdapterOffer, error: type[AppError], param: str, told: str
) -> None:
    file = io.BytesIO(lora_bytes())
    with pytest.raises(error, match=told) as caught:
        await importer(house).run("alice", offer, file)
    assert caught.value.param == param
    assert file.tell() == 0
