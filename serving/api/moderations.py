"""POST /v1/moderations: the scores of texts and pictures, and whether they reach the tenant's thresholds."""

import asyncio
import secrets
from collections.abc import Sequence

from fastapi import APIRouter

from pipelines.moderation.scores import MINORS, SEXUAL, Scores, highest
from pipelines.moderation.text import screen_text
from serving.api.deps import CurrentCaller, Services, ServicesDep
from serving.api.named_pictures import NamedPictures
from serving.api.schemas.moderations import (
    AppliedInputTypes,
    Categories,
    CategoryScores,
    ImagePart,
    InputType,
    ModerationBody,
    ModerationResponse,
    ModerationResult,
    Part,
    TextPart,
)
from serving.errors import BadInput, NotFound
from serving.tenancy.policies import ModerationPolicy

router = APIRouter(prefix="/v1/moderations", tags=["moderation"])

OPENAIS_MODELS = ("omni-moderation-", "text-moderation-")


@router.post("")
async def moderate(body: ModerationBody, services: ServicesDep, caller: CurrentCaller) -> ModerationResponse:
    """One result for each text of a list of texts; one for all parts of a list of parts together.

    Other categories of OpenAI's are not looked for, and so not told.
    """
    name = f"darkroom-{services.moderator.name}"
    if body.model is not None and body.model != name and not body.model.startswith(OPENAIS_MODELS):
        raise NotFound(f"No moderation model {body.model!r}; this is {name}.", param="model", code="model_not_found")
    policy = await services.moderation.policy_of(caller.tenant)
    if body.parts:
        results = [await _judge_together(body.parts, policy, services, caller.tenant)]
    else:
        results = await _judge_texts(body.texts, policy)
    return ModerationResponse(id=f"modr-{secrets.token_hex(12)}", model=name, results=results)


async def _judge_texts(texts: Sequence[str], policy: ModerationPolicy) -> list[ModerationResult]:
    # In a thread: a client may send far more than a prompt.
    screened = await asyncio.to_thread(lambda: [screen_text(text) for text in texts])
    return [_result(policy, texts=[scores], pictures=[]) for scores in screened]


async def _judge_together(
    parts: Sequence[Part], policy: ModerationPolicy, services: Services, tenant: str
) -> ModerationResult:
    text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
    texts = [await asyncio.to_thread(screen_text, text)] if text else []
    looks = await asyncio.gather(
        *(
            _look(part, services, tenant, param=f"input.{index}.image_url.url")
            for index, part in enumerate(parts)
            if isinstance(part, ImagePart)
        ),
        return_exceptions=True,  # of several that are wrong the first is told, and none is left at work
    )
    pictures: list[Scores] = []
    for look in looks:
        if isinstance(look, BaseException):
            raise look
        pictures.append(look)
    return _result(policy, texts=texts, pictures=pictures)


async def _look(part: ImagePart, services: Services, tenant: str, *, param: str) -> Scores:
    max_bytes = services.settings.api.max_image_bytes
    named = NamedPictures(services.outbound, services.uploads, max_bytes=max_bytes)
    picture = await named.read(tenant, part.image_url.url, param=param)
    try:
        (scores,) = await services.moderator.look([picture], timeout_s=services.settings.moderation.timeout_s)
    except BadInput as error:
        raise BadInput(error.message, param=param, code=error.code) from error
    return scores


def _result(policy: ModerationPolicy, *, texts: Sequence[Scores], pictures: Sequence[Scores]) -> ModerationResult:
    scores = highest([*texts, *pictures])
    flagged = policy.flagged(scores)
    read: list[InputType] = ["text"] if texts else []
    seen: list[InputType] = ["image"] if pictures else []
    return ModerationResult(
        flagged=bool(flagged),
        categories=Categories(sexual=SEXUAL in flagged, sexual_minors=MINORS in flagged),
        category_scores=CategoryScores(sexual=scores[SEXUAL], sexual_minors=scores[MINORS]),
        category_applied_input_types=AppliedInputTypes(sexual=read + seen, sexual_minors=read),
    )
