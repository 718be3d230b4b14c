"""What is remembered of trials that come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune

from raytune_rl.controller import Fixed
from raytune_rl.tune.trials import adapter
from raytune_rl.tune.trials.members import ORIGIN, Members
from tests.controller.worlds import make_controller
from tests.tune.trials.test_adapter import register, trial_in


@pytest.mark.parametrize("behind", [True, False])
def test_a_copy_that_only_tunes_snapshot_knows_keeps_its_origin(tmp_path: Path, behind: bool) -> None:
    controller = make_controller(Fixed())
    members = Members(controller, segment_length=1, starts=None)
    trial: Any = trial_in(tmp_path / "receiver")
    trial.config, trial.evaluated_params = {}, {}
    trial.has_checkpoint = lambda: False
    trial.set_config = lambda config: vars(trial).update(config=config)
    members.join(trial)
    track = members.track(trial)
    for at in (1, 2) if behind else (1, 2, 3):
        track.open(at=at, seconds=0.1 * at, values=None)
    donor = trial_in(tmp_path / "donor")
    copy = adapter.copy_into(trial, tune.Checkpoint(str(register(donor, 5, 1.0))), 3)
    origin = {"copied_from": 2, "copied_segment": 4}
    adapter.start_from(trial, copy, {"training_iteration": 3, ORIGIN: origin})
    assert members.rejoin(trial) == 3
    assert (track.segment, track.newest.at) == (3, 3)
    assert (track.newest.copied_from, track.newest.copied_segment) == (2, 4)
