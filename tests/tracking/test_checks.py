"""Mistakes about callbacks are found before Ray starts."""

from __future__ import annotations

import threading

import pytest
from ray.tune.logger import CSVLoggerCallback, LoggerCallback

from raytune_rl.errors import BadInput
from raytune_rl.tracking import check_callbacks, missing_library


class Locked(LoggerCallback):
    def __init__(self) -> None:
        self.api_key = "s3cr3t"
        self.lock = threading.Lock()


def test_a_callback_that_cannot_be_pickled_is_named_without_its_fields() -> None:
    check_callbacks(None)
    check_callbacks((CSVLoggerCallback(),))
    with pytest.raises(BadInput, match="Locked that cannot be pickled") as caught:
        check_callbacks((CSVLoggerCallback(), Locked()))
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "extra"),
    [
        (ModuleNotFoundError("No module named 'mlflow'", name="mlflow"), "raytune_rl[mlflow]"),
        (ModuleNotFoundError("No module named 'mlflow.store'", name="mlflow.store"), "raytune_rl[mlflow]"),
        (RuntimeError("Wandb was not found - please install with `pip install wandb`"), "raytune_rl[wandb]"),
        (ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend"), "raytune_rl[bench]"),
    ],
)
def test_a_missing_library_names_the_extra(error: Exception, extra: str) -> None:
    assert extra in (missing_library(error) or "")


def test_other_errors_are_not_explained_away() -> None:
    assert missing_library(ModuleNotFoundError("No module named 'numpi'", name="numpi")) is None
    assert missing_library(RuntimeError("out of luck")) is None
