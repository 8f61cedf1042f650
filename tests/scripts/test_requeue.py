"""scripts/requeue.py against the true routes: which jobs it means, what it does to them, and what it says."""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from types import ModuleType

import pytest
import pytest_asyncio

from configs.settings import PROJECT_DIR
from models.errors import GenerationError, InputImageError, NotFinite
from serving.jobs.job import Job
from tests.serving.conftest import OpenHouse, houses, logging_is_set_up, mongo_settings
from tests.serving.house import House, on_a_port

__all__ = ["houses", "logging_is_set_up", "mongo_settings"]  # fixtures of the serving tests, wanted here too


@pytest.fixture(scope="module")
def requeue() -> ModuleType:
    spec = importlib.util.spec_from_file_location("requeue", PROJECT_DIR / "scripts/requeue.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["requeue"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest_asyncio.fixture
async def quiet(houses: OpenHouse) -> House:  # noqa: F811
    return await houses(sweeps=False, jobs={"max_queued_per_tenant": 5})


@pytest_asyncio.fixture
async def address(quiet: House) -> AsyncIterator[str]:
    quiet.router.is_lost = True  # what waits again stays where it is
    async with on_a_port(quiet.app) as url:
        yield url


async def a_failed_job(house: House, error: GenerationError, *, tenant: str = "alice") -> Job:
    house.backend.troubles.append(error)
    failed = await house.drive(await house.insert(tenant=tenant))
    assert failed is not None
    assert failed.status == "failed"
    for owed in await house.upkeep.find_owed(limit=10):
        await house.upkeep.clear_owed(owed)
    return failed


async def run(requeue: ModuleType, house: House, address: str, *args: str) -> int:
    key = house.alice.headers["Authorization"].removeprefix("Bearer ")
    return int(await asyncio.to_thread(requeue.main, ["--url", address, "--key", key, *args]))


async def statuses(house: House, *jobs: Job) -> list[str]:
    return [(await house.store.get(job.tenant, job.id)).status for job in jobs]


async def test_all_failed_jobs_of_the_key_wait_again_and_nobody_elses(
    quiet: House, address: str, requeue: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = [await a_failed_job(quiet, NotFinite("NaN")) for _ in range(3)]
    theirs = await a_failed_job(quiet, NotFinite("NaN"), tenant="bob")
    assert await run(requeue, quiet, address) == 0
    assert await statuses(quiet, *mine, theirs) == ["queued", "queued", "queued", "failed"]
    told = capsys.readouterr()
    assert told.err == "3 waits again\n"
    assert await run(requeue, quiet, address) == 0
    assert capsys.readouterr().err == "Nothing was retried.\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--code", "not_finite"), ["queued", "failed"]),
        (("--code", "bad_image"), ["failed", "queued"]),
        (("--code", "bad_image", "--code", "not_finite"), ["queued", "queued"]),
        (("--model", "flux-schnell"), ["failed", "failed"]),
        (("--older-than", "1h"), ["failed", "failed"]),
        (("--newer-than", "1h"), ["queued", "queued"]),
        (("--limit", "1"), ["failed", "queued"]),
        (("--dry-run",), ["failed", "failed"]),
    ],
)
async def test_only_what_is_meant_waits_again(
    quiet: House, address: str, requeue: ModuleType, options: tuple[str, ...], expected: list[str]
) -> None:
    jobs = [await a_failed_job(quiet, error) for error in (NotFinite("NaN"), InputImageError("damaged"))]
    assert await run(requeue, quiet, address, *options) == 0
    assert await statuses(quiet, *jobs) == expected


async def test_a_full_queue_is_waited_for_and_what_found_no_room_is_told(
    quiet: House, address: str, requeue: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [await a_failed_job(quiet, NotFinite("NaN")) for _ in range(7)]
    assert await run(requeue, quiet, address, "--patience", "1s") == 1
    assert (await statuses(quiet, *jobs)).count("queued") == 5
    assert capsys.readouterr().err == "2 tenant_queue_full, 5 waits again\n"


async def test_a_server_that_does_not_answer_is_said_so(
    quiet: House, requeue: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(requeue, quiet, "http://127.0.0.1:9") == 1
    assert "No Darkroom answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("30m", 1_800.0), ("1d", 86_400.0)])
def test_ages_have_units(requeue: ModuleType, text: str, seconds: float) -> None:
    assert requeue._seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1w", "١h"])
def test_what_is_no_age_is_refused(requeue: ModuleType, text: str) -> None:
    with pytest.raises(SystemExit):
        requeue.main(["--older-than", text])
