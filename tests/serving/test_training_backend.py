"""The Trainer replicas as a backend: the policy goes along, faults keep their code, what may pass is put back."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from configs.settings import Settings
from models.catalog import load_catalog
from pipelines.request import Preview, Progress, StoredFile, TrainedAdapter, TrainingRequest
from serving.backends.base import Order
from serving.backends.training import TrainerMessage, TrainingBackend, TrainingError, TrainingEstimate, TrainingFailure
from serving.errors import BackendLost, LeaseLost, Unavailable
from serving.jobs.feed import News
from serving.main import _trainer_share
from serving.tenancy.policies import ModerationPolicy

REQUEST = TrainingRequest("signer", "emoji-3d", "sks", "template", "subject", "{}", 10, 4, 128, 1)
ORDER = Order("job_1", "alice", REQUEST, "tenants/alice/datasets/-/job_1/")
FILE = StoredFile("temp/job_1/adapter.safetensors", "ab" * 32)
RESULT = TrainedAdapter(FILE, 1, "", "", FILE, 3, (), (), (), None, (), None, engine_s=1.0, waited_s=0.0, device_s=1.0)
POLICY = ModerationPolicy("blur", 0.4, 0.5)
NEWS: tuple[News, ...] = (Progress(1, 10, stage="train"), Preview(0, 1, b"p", "image/png"))


class FakeLink:
    """Says `messages`."""

    def __init__(self, messages: Sequence[TrainerMessage]) -> None:
        self._messages = messages
        self.policies: list[ModerationPolicy] = []
        self.is_closed = False

    async def train(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[TrainerMessage, None]:
        self.policies.append(policy)
        try:
            for message in self._messages:
                yield message
        finally:
            self.is_closed = True

    async def estimate(self, request: TrainingRequest, *, timeout_s: float) -> TrainingEstimate:
        raise NotImplementedError

    async def is_ready(self, *, timeout_s: float) -> bool:
        return True


async def policy_of(tenant: str) -> ModerationPolicy:
    assert tenant == "alice"
    return POLICY


async def make(link: FakeLink, heard: list[News]) -> TrainedAdapter:
    async def on_progress(news: News) -> None:
        heard.append(news)

    return await TrainingBackend(link, policy_of).make(ORDER, on_progress=on_progress)


async def test_progress_and_previews_are_told_and_the_tenants_policy_goes_along() -> None:
    link, heard = FakeLink([*NEWS, RESULT]), list[News]()
    assert await make(link, heard) == RESULT
    assert heard == list(NEWS)
    assert link.policies == [POLICY]
    assert link.is_closed


async def test_a_fault_of_the_request_keeps_its_code_and_what_may_pass_is_no_fault() -> None:
    with pytest.raises(TrainingError, match="too few") as caught:
        await make(FakeLink([TrainingFailure("too_few_pictures", "They are too few.", may_pass=False)]), [])
    assert caught.value.code == "too_few_pictures"
    with pytest.raises(Unavailable) as away:
        await make(FakeLink([TrainingFailure("storage_unavailable", "No answer.", may_pass=True)]), [])
    assert away.value.code == "storage_unavailable"


async def test_an_answer_without_a_result_is_a_lost_backend() -> None:
    with pytest.raises(BackendLost):
        await make(FakeLink(NEWS), [])


async def test_the_replica_is_let_go_of_when_the_listener_gives_up() -> None:
    link = FakeLink([*NEWS, RESULT])

    async def on_progress(_news: News) -> None:
        raise LeaseLost("another Router has it")

    with pytest.raises(LeaseLost):
        await TrainingBackend(link, policy_of).make(ORDER, on_progress=on_progress)
    assert link.is_closed


@pytest.mark.parametrize(
    ("num_gpus", "models", "tree", "share"),
    [
        (0.0, {"sdxl": 0.3}, {}, 0.0),  # no GPU
        (1.0, {"sdxl": 0.3}, {}, 0.3),  # as an engine of the same model
        (1.0, {"sdxl": 0.3, "sd15": 0.45}, {}, 0.25),  # what is left
        (1.0, {"flux-dev": 1.0}, {}, 0.0),  # nothing is left
        (2.0, {"flux-dev": 1.0, "sdxl": 0.4}, {}, 0.3),  # wherever the engines are put, it fits
        (1.0, {"sdxl": 0.2}, {"num_replicas": 8}, 0.1),
        (4.0, {"qwen-image": 1.0}, {}, 0.0),  # whose LoRAs we do not train
    ],
)
def test_a_trainer_takes_of_the_gpus_what_engines_leave(
    num_gpus: float, models: Mapping[str, float], tree: dict[str, Any], share: float
) -> None:
    catalog = load_catalog()
    served = {
        name: catalog[name].model_copy(update={"memory": catalog[name].memory.model_copy(update={"num_gpus": part})})
        for name, part in models.items()
    }
    settings = Settings.model_validate({"training": tree})
    assert _trainer_share(settings, served, num_gpus) == pytest.approx(share)


def test_a_failure_says_the_same_on_the_other_side_of_the_process_border() -> None:
    lasting = TrainingFailure("out_of_memory", "It needs 9 GB.", may_pass=False)
    assert (lasting.as_error().code, str(lasting.as_error())) == ("out_of_memory", "It needs 9 GB.")
    assert isinstance(replace(lasting, may_pass=True).as_error(), Unavailable)
