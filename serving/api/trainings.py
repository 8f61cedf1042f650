"""POST /v1/loras/train and /estimate: a LoRA out of uploads, as a job like any other; or what one would take."""

from fastapi import APIRouter, Response

from serving.api.calls import CurrentCall
from serving.api.deps import CurrentCaller, ServicesDep
from serving.api.generations import answer_with_job
from serving.api.schemas import ErrorBody, JobBody
from serving.api.schemas.trainings import EstimateBody, TrainingBody, estimate_body
from serving.backends.training import TrainingError
from serving.errors import BackendLost, Unavailable, Unprocessable

router = APIRouter(prefix="/v1/loras", tags=["loras"])


@router.post(
    "/train",
    status_code=202,
    responses={
        200: {"model": JobBody},
        404: {"model": ErrorBody},
        409: {"model": ErrorBody},
        422: {"model": ErrorBody},
        429: {"model": ErrorBody},
    },
)
async def train_lora(body: TrainingBody, call: CurrentCall, response: Response) -> JobBody:
    """Accepts a job that chooses stills, captions them, trains, proves what came of it and publishes a version."""
    return await answer_with_job(call, body.wish(), response)


@router.post(
    "/estimate",
    responses={
        404: {"model": ErrorBody},
        409: {"model": ErrorBody},
        422: {"model": ErrorBody},
        503: {"model": ErrorBody},
    },
)
async def estimate_training(body: TrainingBody, services: ServicesDep, caller: CurrentCaller) -> EstimateBody:
    """What the same body would take, without asking for it. The first look at a model takes a while."""
    request = await services.admission.training_request(caller.tenant, body.wish())
    try:
        estimate = await services.trainer.estimate(request, timeout_s=services.settings.training.measure_timeout_s)
    except TrainingError as error:
        raise Unprocessable(str(error), code=error.code) from error
    except BackendLost as error:
        raise Unavailable("The Trainer was lost while it measured.", code="trainer_unavailable") from error
    return estimate_body(estimate, request)
