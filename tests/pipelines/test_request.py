"""The nouns every process imports: small sums, and no torch behind them."""

import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest

from configs.settings import PROJECT_DIR
from models.spec import Family
from pipelines.request import GenerationRequest, Progress
from pipelines.schedulers import SCHEDULERS, get_scheduler, sampler_name

REQUEST = GenerationRequest("m", "p", "", 64, 32, 3, 5, 20, 4.5)


def test_image_seeds_count_up_and_stay_storable() -> None:
    assert [REQUEST.image_seed(index) for index in range(3)] == [5, 6, 7]
    last = replace(REQUEST, seed=2**63 - 1)
    assert [last.image_seed(0), last.image_seed(1)] == [2**63 - 1, 0]


@pytest.mark.parametrize(
    ("step", "steps", "percent"), [(0, 20, 0), (10, 20, 50), (20, 20, 100), (21, 20, 100), (0, 0, 0)]
)
def test_percent_never_leaves_its_range(step: int, steps: int, percent: int) -> None:
    assert Progress(step, steps).percent == percent


def test_processes_without_a_gpu_can_import_the_nouns_without_torch() -> None:
    code = (
        "import sys, pipelines.request, pipelines.schedulers, models.catalog, models.blobs\n"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, check=False).returncode == 0


def test_every_scheduler_has_a_name_that_other_programs_know() -> None:
    assert set(SCHEDULERS) == set(get_args(Family))
    assert get_scheduler("sd", "dpm++2m-karras").sampler == "DPM++ 2M Karras"
    assert sampler_name("DPMSolverMultistepScheduler") == "DPM++ 2M"
    assert sampler_name("DPMSolverMultistepScheduler", has_karras_sigmas=True) == "DPM++ 2M Karras"
    assert sampler_name("PNDMScheduler") == "PNDM"
    with pytest.raises(ValueError, match="'euler' is not one of this model's: flow-euler"):
        get_scheduler("flux", "euler")
