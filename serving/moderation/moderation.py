"""Moderation: what is done about a picture or a prompt, by its tenant's policy. Knows no HTTP."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.moderation.blur import blur_picture
from pipelines.moderation.text import screen_text
from serving.errors import ModerationBlocked
from serving.moderation.link import ModeratorLink
from serving.telemetry import MODERATED, get_logger
from serving.tenancy.policies import ModerationPolicy, TenantPolicies

log = get_logger("moderation")

REJECTED = "The request was rejected by the safety system: {what} was flagged as {categories}."


@dataclass(frozen=True, slots=True)
class Screened:
    """A picture that may be kept: its bytes, blurred where the policy says so, and what was found."""

    data: bytes
    is_nsfw: bool | None  # None: nobody looked
    score: float | None  # 0–1, of `sexual`


class Moderation:
    """Looks and judges. Without an answer of the moderator nothing passes: Unavailable, which may be tried again."""

    def __init__(self, link: ModeratorLink, policies: TenantPolicies, *, timeout_s: float) -> None:
        self._link = link
        self._policies = policies
        self._timeout_s = timeout_s

    async def policy_of(self, tenant: str) -> ModerationPolicy:
        """What holds for a tenant now."""
        return (await self._policies.of(tenant)).moderation

    async def screen(
        self, tenant: str, pictures: Sequence[bytes], *, is_lenient: bool = False, what: str = "the picture"
    ) -> list[Screened]:
        """What of the pictures may be kept, in their order. Raises ModerationBlocked where one is blocked."""
        policy = await self.policy_of(tenant)
        if policy.action == "off" or not pictures:
            return [Screened(data, None, None) for data in pictures]
        looks = await self._link.look(pictures, timeout_s=self._timeout_s)
        screened = []
        for data, scores in zip(pictures, looks, strict=True):
            flagged = policy.flagged(scores, is_lenient=is_lenient)
            MODERATED.labels("picture", policy.action if flagged else "pass").inc()
            if flagged:
                log.info("picture flagged", tenant=tenant, categories=flagged, action=policy.action)
            if flagged and policy.action == "block":
                raise ModerationBlocked(_rejected(what, flagged), categories=flagged)
            if flagged and policy.action == "blur":
                data = await asyncio.to_thread(blur_picture, data)
            screened.append(Screened(data, bool(flagged), scores.get("sexual", 0.0)))
        return screened

    async def check_prompt(self, tenant: str, prompt: str, *, is_lenient: bool = False, param: str = "prompt") -> None:
        """Raises ModerationBlocked for a prompt that the tenant's policy blocks.

        Under `blur` and `flag` the pictures are looked at; only what sexualises minors is never begun.
        """
        policy = await self.policy_of(tenant)
        if policy.action == "off":
            return
        flagged = policy.flagged(screen_text(prompt), is_lenient=is_lenient)
        is_blocked = "sexual/minors" in flagged or (bool(flagged) and policy.action == "block")
        MODERATED.labels("prompt", "block" if is_blocked else "flag" if flagged else "pass").inc()
        if is_blocked:
            log.info("prompt blocked", tenant=tenant, categories=flagged)
            raise ModerationBlocked(_rejected(f"the {param}", flagged), param=param, categories=flagged)


def _rejected(what: str, categories: Sequence[str]) -> str:
    return REJECTED.format(what=what, categories=" and ".join(categories))
