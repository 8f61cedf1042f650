"""GET /v1/models: what this server serves, and the caller's adapters.

An adapter is listed once, under its name, which a request's `loras` takes and which stays the same when a version is
added; `root` is the version that the name means now, `parent` the model it adapts, as other servers tell them.
"""

from fastapi import APIRouter

from models.catalog import get_model
from models.errors import UnknownModel
from models.spec import ModelSpec
from serving.adapters.adapter import Adapter
from serving.api.deps import CurrentCaller, ServicesDep
from serving.api.schemas import ModelBody, ModelList
from serving.api.schemas.loras import LoraModelBody, lora_model_body
from serving.errors import NotFound

router = APIRouter(prefix="/v1/models", tags=["models"])

READY_TIMEOUT_S = 2.0


@router.get("")
async def list_models(services: ServicesDep, caller: CurrentCaller) -> ModelList:
    ready = await services.router.ready_models(timeout_s=READY_TIMEOUT_S)
    latest: dict[str, Adapter] = {}
    for adapter in sorted(await services.adapters.versions(caller.tenant), key=lambda a: a.version):
        latest[adapter.name] = adapter
    return ModelList(
        data=[
            *(_body(spec, ready.get(spec.id, False)) for spec in services.catalog.values()),
            *(
                lora_model_body(latest[name], is_ready=ready.get(latest[name].manifest.base_model, False))
                for name in sorted(latest)
            ),
        ]
    )


@router.get("/{model_id}")
async def get_one_model(services: ServicesDep, caller: CurrentCaller, model_id: str) -> ModelBody | LoraModelBody:
    """A model, or an adapter by `name` or `name@version`."""
    ready = await services.router.ready_models(timeout_s=READY_TIMEOUT_S)
    try:
        spec = get_model(services.catalog, model_id)
    except UnknownModel as unknown:
        try:
            adapter = await services.adapters.resolve(caller.tenant, model_id)
        except NotFound:
            raise unknown from None
        return lora_model_body(adapter, is_ready=ready.get(adapter.manifest.base_model, False))
    return _body(spec, ready.get(spec.id, False))


def _body(spec: ModelSpec, is_ready: bool) -> ModelBody:
    return ModelBody(
        id=spec.id,
        owned_by=spec.owned_by,
        created=spec.created,
        kind=spec.kind,
        family=spec.family,
        ready=is_ready,
        title=spec.title,
        license=spec.license,
        sizes=list(spec.sizes),
        default_steps=spec.defaults.num_inference_steps,
        default_guidance_scale=spec.defaults.guidance_scale,
    )
