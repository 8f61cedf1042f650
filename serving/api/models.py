"""GET /v1/models: what this server serves."""

from fastapi import APIRouter

from models.catalog import get_model
from models.spec import ModelSpec
from serving.api.deps import CurrentCaller, ServicesDep
from serving.api.schemas import ModelBody, ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])

READY_TIMEOUT_S = 2.0


@router.get("")
async def list_models(services: ServicesDep, _caller: CurrentCaller) -> ModelList:
    ready = await services.router.ready_models(timeout_s=READY_TIMEOUT_S)
    return ModelList(data=[_body(spec, ready.get(spec.id, False)) for spec in services.catalog.values()])


@router.get("/{model_id}")
async def get_one_model(services: ServicesDep, _caller: CurrentCaller, model_id: str) -> ModelBody:
    spec = get_model(services.catalog, model_id)
    ready = await services.router.ready_models(timeout_s=READY_TIMEOUT_S)
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
