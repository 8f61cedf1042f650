"""The Moderator replica outside Ray, and the link to it: batches, what is no picture, what Ray's failures become."""

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from configs.settings import Settings
from pipelines.moderation.classifier import Classifier
from pipelines.moderation.scores import Scores
from serving.errors import BadInput, Unavailable
from serving.moderation.link import LookFailure
from serving.replicas import moderator as replica
from serving.replicas.moderator import MAX_FAILURES, Moderator
from serving.replicas.moderator_link import RayModeratorLink
from tests.moderators import MARKER, StandInClassifier
from tests.serving.api.conftest import picture_bytes
from tests.serving.house import eventually

MARKED = picture_bytes(color=MARKER)
PLAIN = picture_bytes(color="green")
MakeModerator = Callable[..., Moderator]


class Held(StandInClassifier):
    """Looks once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_look = threading.Event()
        self.is_looking = threading.Event()

    def look(self, pictures: Sequence[Image.Image]) -> list[Scores]:
        self.is_looking.set()
        assert self.may_look.wait(20)
        return super().look(pictures)


class Broken(StandInClassifier):
    """Fails as often as `troubles` says."""

    troubles = 0

    def look(self, pictures: Sequence[Image.Image]) -> list[Scores]:
        if self.troubles:
            self.troubles -= 1
            raise RuntimeError("CUDA error")
        return super().look(pictures)


@pytest.fixture
def make_moderator(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> MakeModerator:
    # What @serve.batch asks Ray for, to warn where batches cannot fill up.
    context = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=1_024))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)

    def make(classifier: Classifier, **moderation: Any) -> Moderator:
        monkeypatch.setattr(replica, "load_classifier", lambda _settings: classifier)
        monkeypatch.setattr(replica, "configure_logging", lambda *_args, **_kwargs: None)
        return Moderator(Settings.model_validate({"state_dir": tmp_path, "moderation": moderation}))

    return make


async def test_each_picture_gets_its_own_scores(make_moderator: MakeModerator) -> None:
    moderator = make_moderator(StandInClassifier())
    looks = await asyncio.gather(*(moderator.look(data) for data in (MARKED, PLAIN, MARKED)))
    assert looks == [{"sexual": 1.0}, {"sexual": 0.0}, {"sexual": 1.0}]
    assert moderator.ping() == moderator.name == "stand-in"


async def test_pictures_of_many_callers_are_looked_at_together(make_moderator: MakeModerator) -> None:
    classifier = StandInClassifier()
    moderator = make_moderator(classifier, max_batch_size=8, batch_wait_s=2.0)
    await asyncio.gather(*(moderator.look(PLAIN) for _ in range(16)))
    assert classifier.batch_sizes == [8, 8]


async def test_a_lone_picture_does_not_wait_for_others_for_long(make_moderator: MakeModerator) -> None:
    classifier = StandInClassifier()
    moderator = make_moderator(classifier, max_batch_size=8, batch_wait_s=0.01)
    async with asyncio.timeout(10):
        await moderator.look(PLAIN)
    assert classifier.batch_sizes == [1]


async def test_what_is_no_picture_fails_alone(make_moderator: MakeModerator) -> None:
    classifier = StandInClassifier()
    moderator = make_moderator(classifier, batch_wait_s=0.2)
    looks = await asyncio.gather(*(moderator.look(data) for data in (b"text", MARKED, b"", PLAIN[:60], PLAIN)))
    failures = [look for look in looks if isinstance(look, LookFailure)]
    assert [failure.code for failure in failures] == ["bad_image"] * 3
    assert [look for look in looks if not isinstance(look, LookFailure)] == [{"sexual": 1.0}, {"sexual": 0.0}]
    assert classifier.num_seen == 2


async def test_its_loop_answers_while_it_looks(make_moderator: MakeModerator) -> None:
    classifier = Held()
    moderator = make_moderator(classifier)
    looking = asyncio.create_task(moderator.look(PLAIN))
    await asyncio.sleep(0.1)
    assert not looking.done()
    assert moderator.ping()
    moderator.check_health()
    classifier.may_look.set()
    assert await looking == {"sexual": 0.0}


async def test_a_picture_whose_caller_has_gone_is_not_looked_at(make_moderator: MakeModerator) -> None:
    classifier = Held()
    moderator = make_moderator(classifier, max_batch_size=1)
    first = asyncio.create_task(moderator.look(PLAIN))
    await eventually(classifier.is_looking.is_set)
    second = asyncio.create_task(moderator.look(PLAIN))
    await asyncio.sleep(0.1)
    second.cancel()
    classifier.may_look.set()
    await first
    assert await moderator.look(PLAIN) == {"sexual": 0.0}
    assert classifier.num_seen == 2


async def test_a_classifier_that_keeps_failing_is_reported_ill(make_moderator: MakeModerator) -> None:
    classifier = Broken()
    moderator = make_moderator(classifier)
    classifier.troubles = MAX_FAILURES - 1
    for _ in range(MAX_FAILURES - 1):
        with pytest.raises(RuntimeError):
            await moderator.look(PLAIN)
    moderator.check_health()
    await moderator.look(PLAIN)  # one success in between, and the count begins anew
    classifier.troubles = MAX_FAILURES
    for _ in range(MAX_FAILURES):
        with pytest.raises(RuntimeError):
            await moderator.look(PLAIN)
    with pytest.raises(RuntimeError, match="3 times in a row"):
        moderator.check_health()


async def test_a_classifier_that_hangs_is_reported_ill(make_moderator: MakeModerator) -> None:
    classifier = Held()
    moderator = make_moderator(classifier, timeout_s=0.05)
    looking = asyncio.create_task(moderator.look(PLAIN))
    await asyncio.sleep(0.3)
    with pytest.raises(RuntimeError, match=r"more than 0\.1 s"):
        moderator.check_health()
    classifier.may_look.set()
    await looking
    moderator.check_health()


# The link.


class Call:
    """What a Ray handle gives back: something to await, and to cancel, which raises what it failed with."""

    def __init__(self, outcome: Any, *, hangs: bool = False) -> None:
        self._outcome = outcome
        self._hangs = hangs
        self.is_cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        if self._hangs:
            yield from asyncio.sleep(60).__await__()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def cancel(self) -> None:
        self.is_cancelled = True
        if isinstance(self._outcome, Exception):
            raise self._outcome


class Handle:
    """A handle whose calls end as they are told, in their order."""

    def __init__(self, *calls: Call) -> None:
        self._calls = iter(calls)
        self.asked: list[bytes] = []
        self.look = self.ping = SimpleNamespace(remote=self._remote)

    def _remote(self, *arguments: bytes) -> Call:
        self.asked += arguments
        return next(self._calls)


def link_to(*calls: Call) -> tuple[RayModeratorLink, Handle]:
    handle = Handle(*calls)
    return RayModeratorLink(handle, name="open-nsfw"), handle


async def test_the_link_sends_each_picture_and_gives_the_scores_in_order() -> None:
    link, handle = link_to(Call({"sexual": 0.1}), Call({"sexual": 0.2}))
    assert await link.look([MARKED, PLAIN], timeout_s=5) == [{"sexual": 0.1}, {"sexual": 0.2}]
    assert handle.asked == [MARKED, PLAIN]
    assert link.name == "open-nsfw"
    assert await link_to()[0].look([], timeout_s=5) == []


async def test_what_is_no_picture_is_bad_input() -> None:
    link, _ = link_to(Call(LookFailure("bad_image", "The image is animated.")))
    with pytest.raises(BadInput, match="animated") as caught:
        await link.look([b"x"], timeout_s=5)
    assert caught.value.code == "bad_image"


@pytest.mark.parametrize("failure", [ActorDiedError(), BackPressureError(num_queued_requests=9, max_queued_requests=9)])
async def test_without_a_moderator_nothing_passes_and_the_rest_is_called_off(failure: Exception) -> None:
    calls = (Call({"sexual": 0.0}), Call(failure), Call({"sexual": 0.0}, hangs=True))
    link, _ = link_to(*calls)
    with pytest.raises(Unavailable) as caught:
        await link.look([PLAIN] * 3, timeout_s=5)
    assert caught.value.code == "moderator_unavailable"
    assert [call.is_cancelled for call in calls] == [False, True, True]
    assert not await link_to(Call(failure))[0].is_ready(timeout_s=1)


async def test_a_moderator_that_takes_too_long_is_not_waited_for() -> None:
    call = Call({"sexual": 0.0}, hangs=True)
    link, _ = link_to(call)
    with pytest.raises(Unavailable):
        await link.look([PLAIN], timeout_s=0.05)
    assert call.is_cancelled
    assert await link_to(Call("open-nsfw"))[0].is_ready(timeout_s=1)
