"""What takes a model, done in processes of their own: each a function of plain data, named in training.orders.

Want of memory is not caught here: the process ends, and whoever started it is told why.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from models.errors import ModelError
from pipelines.work import Tell, WorkRefused
from training.dataset import DatasetError
from training.measuring import measure as measure_order
from training.orders import MeasureOrder, TrainOrder
from training.proof import ProofError
from training.recipe import RecipeError
from training.run import train as train_order

REFUSALS: dict[type[Exception], str] = {
    RecipeError: "bad_recipe",
    DatasetError: "bad_dataset",
    ModelError: "bad_model",
    ProofError: "not_proven",
}


def train(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """For the arguments of a TrainOrder, those of what came of it."""
    with _refusing():
        return train_order(TrainOrder.from_dict(arguments), tell).to_dict()


def measure(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """For the arguments of a MeasureOrder, those of what was measured."""
    with _refusing():
        return measure_order(MeasureOrder.from_dict(arguments)).to_dict()


@contextmanager
def _refusing() -> Generator[None, None, None]:
    """What is at fault with the order itself is said in words; all else is a crash."""
    try:
        yield
    except tuple(REFUSALS) as error:
        code = next(code for kind, code in REFUSALS.items() if isinstance(error, kind))
        raise WorkRefused(code, str(error)) from error
