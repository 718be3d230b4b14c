"""A member as the trial that Ray's callbacks see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial


class MemberTrial(Trial):
    """A member as a Tune trial with a name, a configuration and a folder on this machine. It cannot be run.

    Tune's trials write into a staging folder of the Ray session, which Tune copies from time to time. This trial writes
    directly into the run directory, so that no files are lost in the session when the driver is killed.

    Args:
        folder: for the member's files.
        group: name of the population: ``<experiment>-<run>``.
        member: index of the member.
        config: the hyperparameters that it started with.
    """

    def __init__(self, *, folder: Path, group: str, member: int, config: Mapping[str, Any]) -> None:
        super().__init__(
            group,
            config=dict(config),
            # begins with a letter, so that no tool can parse it as a number
            trial_id=f"member-{member}-{group.rpartition('-')[2]}",
            evaluated_params=dict(config),
            experiment_tag=str(member),
            trial_name_creator=lambda trial: f"{group}-member-{member}",
            stub=True,
        )
        self.member = member
        self._folder = folder
        self._group = group

    def init_local_path(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def local_path(self) -> str:
        return str(self._folder)

    @property
    def path(self) -> str:
        return str(self._folder)

    @property
    def local_experiment_path(self) -> str:
        return str(self._folder.parent)

    @property
    def remote_experiment_path(self) -> str:
        return str(self._folder.parent)

    @property
    def experiment_dir_name(self) -> str:
        return self._group
