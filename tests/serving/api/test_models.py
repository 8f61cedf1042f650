"""GET /v1/models: what is served, in OpenAI's shape and with what a client needs to ask well."""

from tests.serving.api.conftest import assert_error
from tests.serving.house import House


async def test_without_a_key_there_is_nothing_to_see(shared: House) -> None:
    assert_error(await shared.anonymous.get("/v1/models"), 401)
    assert_error(await shared.anonymous.get("/v1/models/emoji-3d"), 401)


async def test_all_served_models_are_listed_the_same_for_every_tenant(shared: House) -> None:
    body = (await shared.alice.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["emoji-3d", "flux-schnell"]
    assert (await shared.bob.get("/v1/models")).json() == body


async def test_a_model_tells_what_may_be_asked_of_it(shared: House) -> None:
    spec = shared.services.catalog["emoji-3d"]
    assert (await shared.alice.get("/v1/models/emoji-3d")).json() == {
        "id": "emoji-3d",
        "object": "model",
        "owned_by": spec.owned_by,
        "created": spec.created,
        "kind": "image",
        "family": "sd",
        "ready": True,
        "title": spec.title,
        "license": spec.license,
        "sizes": list(spec.sizes),
        "default_steps": spec.defaults.num_inference_steps,
        "default_guidance_scale": spec.defaults.guidance_scale,
    }


async def test_a_model_that_is_loading_is_not_ready(house: House) -> None:
    house.backends["flux-schnell"].ready = False
    ready = {model["id"]: model["ready"] for model in (await house.alice.get("/v1/models")).json()["data"]}
    assert ready == {"emoji-3d": True, "flux-schnell": False}


async def test_without_a_router_no_model_is_ready_and_all_are_listed(house: House) -> None:
    house.router.is_lost = True
    ready = {model["id"]: model["ready"] for model in (await house.alice.get("/v1/models")).json()["data"]}
    assert ready == {"emoji-3d": False, "flux-schnell": False}


async def test_an_unknown_model_says_which_exist(shared: House) -> None:
    message = assert_error(await shared.alice.get("/v1/models/dall-e-3"), 404, code="model_not_found", param="model")
    assert "emoji-3d, flux-schnell" in message
