"""The Frames replicas as a backend: the policy goes along, faults keep their code, what may pass is put back."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from configs.settings import Settings
from pipelines.request import FRAMES, TRAINING, FramesRequest, FramesResult, Progress, StoredFile
from serving.backends.base import Order
from serving.backends.frames import FramesBackend, FramesError, FramesFailure, FramesMessage
from serving.errors import BackendLost, LeaseLost, Unavailable
from serving.jobs.feed import News
from serving.replicas.frames_link import InspectFailure
from serving.replicas.router import lane_widths
from serving.tenancy.policies import ModerationPolicy
from serving.uploads.inspecting import UploadRefused

ORDER = Order("job_1", "alice", FramesRequest("upl_1", StoredFile("k", "ab" * 32), 3.0, 24), "tenants/alice/frames/1-")
RESULT = FramesResult((), (), "tenants/alice/frames/1-sheet.jpg", engine_s=1.0, waited_s=0.0, device_s=1.0)
POLICY = ModerationPolicy("blur", 0.4, 0.5)


class FakeLink:
    """Says `messages`."""

    def __init__(self, messages: Sequence[FramesMessage]) -> None:
        self._messages = messages
        self.policies: list[ModerationPolicy] = []
        self.is_closed = False

    async def extract(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[FramesMessage, None]:
        self.policies.append(policy)
        try:
            for message in self._messages:
                yield message
        finally:
            self.is_closed = True

    async def is_ready(self, *, timeout_s: float) -> bool:
        return True


async def policy_of(tenant: str) -> ModerationPolicy:
    assert tenant == "alice"
    return POLICY


async def make(link: FakeLink, heard: list[News]) -> FramesResult:
    async def on_progress(news: News) -> None:
        heard.append(news)

    return await FramesBackend(link, policy_of).make(ORDER, on_progress=on_progress)


async def test_progress_is_told_and_the_tenants_policy_goes_along() -> None:
    link, heard = FakeLink([Progress(10, 100), Progress(95, 100), RESULT]), list[News]()
    assert await make(link, heard) == RESULT
    assert heard == [Progress(10, 100), Progress(95, 100)]
    assert link.policies == [POLICY]
    assert link.is_closed


async def test_a_fault_of_the_video_keeps_its_code_and_what_may_pass_is_no_fault() -> None:
    with pytest.raises(FramesError, match="cut off") as caught:
        await make(FakeLink([FramesFailure("truncated", "It is cut off.", may_pass=False)]), [])
    assert caught.value.code == "truncated"
    with pytest.raises(Unavailable) as away:
        await make(FakeLink([FramesFailure("storage_unavailable", "No answer.", may_pass=True)]), [])
    assert away.value.code == "storage_unavailable"


async def test_an_answer_without_a_result_is_a_lost_backend() -> None:
    with pytest.raises(BackendLost):
        await make(FakeLink([Progress(10, 100)]), [])


async def test_the_replica_is_let_go_of_when_the_listener_gives_up() -> None:
    link = FakeLink([Progress(10, 100), RESULT])

    async def on_progress(_news: News) -> None:
        raise LeaseLost("another Router has it")

    with pytest.raises(LeaseLost):
        await FramesBackend(link, policy_of).make(ORDER, on_progress=on_progress)
    assert link.is_closed


@pytest.mark.parametrize(
    ("num_routers", "width"),
    [(1, {"emoji-3d": 64, FRAMES: 6, TRAINING: 4}), (4, {"emoji-3d": 16, FRAMES: 1, TRAINING: 1})],
)
def test_routers_together_drive_as_many_jobs_as_the_replicas_take(num_routers: int, width: dict[str, int]) -> None:
    frames, training = {"max_at_once": 2, "num_replicas": 3}, {"max_at_once": 4, "num_replicas": 1}
    tree = {"frames": frames, "training": training, "router": {"num_replicas": num_routers}}
    settings = Settings.model_validate(tree)
    assert lane_widths(settings, ["emoji-3d"]) == width


@pytest.mark.parametrize(
    "error",
    [
        UploadRefused("too_large", "The file is too large."),
        Unavailable("The disk is full.", code="disk_full"),
    ],
)
def test_why_an_upload_was_not_looked_at_survives_the_way_between_processes(error: Any) -> None:
    told = InspectFailure.of(error).as_error()
    assert (type(told), told.code, told.message) == (type(error), error.code, error.message)
    assert InspectFailure(409, "sent_anew", "Sent anew.").as_error().code == "sent_anew"
