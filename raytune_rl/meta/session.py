"""A meta-training from its first weights to its best ones: starts or resumes it, validates, and saves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from safetensors.numpy import load, save

from raytune_rl.controller.policy import Policy
from raytune_rl.controller.tokens import TokenPolicy, initial_weights
from raytune_rl.meta.from_runs import read_run
from raytune_rl.meta.imitation import imitate
from raytune_rl.meta.recipe import FILE, Recipe
from raytune_rl.meta.training import clone, expert_episodes, ppo
from raytune_rl.meta.validation import RULES, Validation, validate
from raytune_rl.pretrained import Pretrained, files
from raytune_rl.rllib import checkpoints
from raytune_rl.rllib.tokens import from_module
from raytune_rl.rundir.store import LocalStore
from raytune_rl.signals import Stoppable
from raytune_rl.worlds.generator import META_VALIDATION

CLONE, RULES_FILE, ALGORITHM, LOG, BEST, LAST = (
    "clone.safetensors",
    "rules.json",
    "algorithm",
    "log.jsonl",
    "best",
    "last",
)
PROGRESS_EVERY = 5
"""Number of iterations between two lines of progress."""
SAVE_SECONDS = 60.0
"""Training time between two checkpoints: at most this much is repeated after a ``kill -9``."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """The progress of a meta-training, saved with RLlib's checkpoint. ``minutes`` is training time."""

    iteration: int = 0
    transitions: int = 0
    minutes: float = 0.0


class Session:
    """A meta-training in ``directory``.

    Files are replaced atomically, and a checkpoint is written under another name first (``rllib.checkpoints``). So
    after a kill at any time at most ``SAVE_SECONDS`` of training are repeated.

    Args:
        directory: for all files of the meta-training.
        recipe: its settings.
        say: called with each line of progress.
    """

    def __init__(self, directory: Path, recipe: Recipe, *, say: Callable[[str], None] = print) -> None:
        self.directory, self.recipe, self.say = directory, recipe, say
        self._store = LocalStore(directory)
        self._store.make_directory("")
        self._store.write(FILE, json.dumps(recipe.to_dict(), indent=1).encode())

    def run(self, *, minutes: float, stoppable: Stoppable) -> bool:
        """Train until the training time, including earlier sessions, is ``minutes``. Returns false if interrupted."""
        weights, rules = self._first_weights(), self._rules()
        checkpoint = checkpoints.newest(self.directory / ALGORITHM)
        reached = Reached() if checkpoint is None else Reached(**checkpoint.record["reached"])
        algorithm: Any = ppo(self.recipe, weights, first=reached.iteration).build_algo()
        stop: list[str] = []
        try:
            if checkpoint is not None:
                algorithm.restore_from_path(str((checkpoint.path / ALGORITHM).resolve()))
            # Later rows, left by a checkpoint that can no longer be read, are written again.
            self._write_log([row for row in self._log() if row["iteration"] <= reached.iteration])
            if self._is_due(reached):  # at the start, or killed between checkpoint and validation
                self._validate_and_save(algorithm, reached, rules)
            saved = reached
            with stoppable.by(stop.append):
                while reached.minutes < minutes and not stop:
                    reached = self._step(algorithm, reached)
                    if self._is_due(reached):
                        self._validate_and_save(algorithm, reached, rules)
                        saved = reached
                    elif (reached.minutes - saved.minutes) * 60 >= SAVE_SECONDS:
                        self._save(algorithm, reached)
                        saved = reached
            if stop:
                self._save(algorithm, reached)
            elif reached.iteration not in self._validated_iterations():
                self._validate_and_save(algorithm, reached, rules)
        finally:
            algorithm.stop()
        return not stop

    def _is_due(self, reached: Reached) -> bool:
        """Whether this iteration has to be validated and has not been yet."""
        every = self.recipe.validate_every
        return reached.iteration % every == 0 and reached.iteration not in self._validated_iterations()

    def _validated_iterations(self) -> set[int]:
        return {row["iteration"] for row in self._log()}

    def _step(self, algorithm: Any, reached: Reached) -> Reached:
        """Train for one iteration."""
        started = time.monotonic()
        result = algorithm.train()
        reached = replace(
            reached,
            iteration=reached.iteration + 1,
            transitions=reached.transitions + int(result["env_runners"].get("num_env_steps_sampled", 0)),
            minutes=reached.minutes + (time.monotonic() - started) / 60,
        )
        if reached.iteration % PROGRESS_EVERY == 0:
            self.say(_progress_line(reached, result))
        return reached

    def _first_weights(self) -> Mapping[str, np.ndarray]:
        """The weights that the agent starts with and stays near: those of the expert's clone, the shipped controller or
        the network's prior; after imitation of finished runs, if there are any."""
        if not self._store.exists(CLONE):
            weights = initial_weights(self.recipe.seed)
            if self.recipe.clone_worlds:
                self.say(f"imitating the expert in {self.recipe.clone_worlds} worlds")
                weights = clone(self.recipe, expert_episodes(self.recipe))
            elif self.recipe.shipped or self.recipe.runs:
                weights = Pretrained().weights
            if self.recipe.runs:
                weights = self._imitate_runs(weights)
            self._store.write(CLONE, save(weights))
        first_weights: dict[str, np.ndarray] = load(self._store.read(CLONE))
        return first_weights

    def _imitate_runs(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        runs = [read_run(directory) for directory in self.recipe.runs]
        for run in runs:
            left = f" ({run.left_out} left out: moves of a learning rate without a cosine)" if run.left_out else ""
            self.say(f"imitating {run.decisions} decisions of {run.directory}{left}")
        return imitate(self.recipe, weights, runs)

    def _rules(self) -> dict[str, Validation]:
        """The validation results of ``RULES``, by name; computed once and then read from a file."""
        if not self._store.exists(RULES_FILE):
            scores = {}
            for name, make in RULES.items():
                scores[name] = self._validate(make).scores.tolist()
                self.say(f"meta-validation, {name}: {np.mean(scores[name]):.4f}")
            self._store.write(RULES_FILE, json.dumps(scores).encode())
        saved = json.loads(self._store.read(RULES_FILE))
        return {name: Validation(scores=np.array(scores)) for name, scores in saved.items()}

    def _validate_and_save(self, algorithm: Any, reached: Reached, rules: Mapping[str, Validation]) -> None:
        """Validate, and save the algorithm, the weights (also as the best ones, if they are) and a row of the log.

        The log comes last, because an iteration that it contains counts as validated.
        """
        state = algorithm.learner_group.get_state(components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}")
        learned = from_module(state[COMPONENT_LEARNER][COMPONENT_RL_MODULE][DEFAULT_MODULE_ID])
        weights = blended(self._first_weights(), learned, self.recipe.blend)
        result = self._validate(lambda: TokenPolicy(weights))
        against = {name: result.against(rule) for name, rule in rules.items()}
        row = {
            **vars(reached),
            "score": result.mean,
            "against": {name: [round(number, 4) for number in pair] for name, pair in against.items()},
        }
        rows = self._log()
        record = {"recipe": self.recipe.to_dict(), "meta_validation": row}
        self._save(algorithm, reached)
        files.write(self.directory / LAST, weights, record)
        if result.mean > max((before["score"] for before in rows), default=-np.inf):
            files.write(self.directory / BEST, weights, record)
        self._write_log([*rows, row])
        compared = ", ".join(f"{name} {a:+.3f} ({p:.2f})" for name, (a, p) in against.items())
        self.say(f"meta-validation {result.mean:.4f} after {reached.transitions:,} transitions: {compared}")

    def _save(self, algorithm: Any, reached: Reached) -> None:
        def fill(path: Path) -> None:
            algorithm.save_to_path(str((path / ALGORITHM).resolve()))  # pyarrow takes no relative path

        checkpoints.write(self.directory / ALGORITHM, fill, {"reached": vars(reached)})

    def _validate(self, make_policy: Callable[[], Policy]) -> Validation:
        numbers = META_VALIDATION[: self.recipe.validation_worlds]
        return validate(
            make_policy, numbers=numbers, populations=self.recipe.validation_populations, each=_map_in_processes
        )

    def _log(self) -> list[dict[str, Any]]:
        """The rows of the log, one per validation."""
        lines = self._store.read(LOG).decode().splitlines() if self._store.exists(LOG) else []
        return [json.loads(line) for line in lines]

    def _write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._store.write(LOG, "".join(json.dumps(row) + "\n" for row in rows).encode())


def blended(first: Mapping[str, np.ndarray], learned: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """The weights at ``share`` of the way from ``first`` to ``learned``, by name; see ``Recipe.blend``."""
    return {name: (1.0 - share) * first[name] + share * learned[name] for name in first}


def _map_in_processes(function: Callable[[int], list[float]], numbers: Sequence[int]) -> list[list[float]]:
    """``map`` in Ray's worker processes: as many at once as fit beside the EnvRunners."""
    task = ray.remote(num_cpus=0.5)(_on_one_thread)
    scores: list[list[float]] = ray.get([task.remote(function, number) for number in numbers])
    return scores


def _on_one_thread(function: Callable[[int], list[float]], number: int) -> list[float]:
    torch.set_num_threads(1)
    return function(number)


def _progress_line(reached: Reached, result: Mapping[str, Any]) -> str:
    numbers = result["learners"][DEFAULT_MODULE_ID]
    shown = {name: float(numbers.get(name, np.nan)) for name in ("entropy", "clone_kl", "vf_explained_var")}
    rate = reached.transitions / max(reached.minutes * 60, 1e-9)
    text = " ".join(f"{name}={value:.3f}" for name, value in shown.items())
    begin = f"iteration {reached.iteration} transitions {reached.transitions:,} minutes {reached.minutes:.1f}"
    return f"{begin} ({rate:,.0f}/s) {text}"
