"""The private calls of Ray, and the versions that they hold for."""

from __future__ import annotations

import ray
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from raytune_rl.tune import adapter


def test_this_ray_is_one_that_was_checked() -> None:
    assert adapter.CHECKED == ("2.60",)
    assert adapter.supports_in_place("2.60.0") and adapter.supports_in_place("2.60.1")
    assert not adapter.supports_in_place("2.6.0") and not adapter.supports_in_place("3.0.0.dev0")
    assert adapter.supports_in_place(ray.__version__)


def test_what_it_calls_is_still_there() -> None:
    for name in ("_schedule_trial_task", "_schedule_trial_train", "_trial_task_failure", "stop_trial"):
        assert callable(getattr(TuneController, name))
    trial = Trial("PPO", stub=True)
    assert trial.temporary_state.ray_actor is None
    assert adapter.submit(trial, "apply") is None
