"""One meta-training from its first clone to its best weights: begins, goes on, validates, and keeps what it has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from safetensors.numpy import load_file, save_file

from raytune_rl.controller.policy import Policy
from raytune_rl.controller.tokens import TokenPolicy, initial_weights
from raytune_rl.meta import store
from raytune_rl.meta.module import numpy_weights
from raytune_rl.meta.recipe import Recipe, keep_recipe
from raytune_rl.meta.training import clone, expert_episodes, ppo
from raytune_rl.meta.validation import RULES, Validation, validate
from raytune_rl.worlds.generator import META_VALIDATION

CLONE, ALGORITHM, LOG, BEST = "clone.safetensors", "algorithm", "log.jsonl", "best"


@dataclass(kw_only=True)
class Session:
    """A meta-training in ``directory``.

    Args:
        recipe: what is done.
        say: takes a line of progress.
    """

    directory: Path
    recipe: Recipe
    say: Callable[[str], None] = print

    def run(self, *, minutes: float) -> None:
        """Train for so long, from where an earlier session of this directory stopped."""
        self.directory.mkdir(parents=True, exist_ok=True)
        keep_recipe(self.directory, self.recipe)
        spent = self._spent()
        weights = self._clone()
        self._baselines = self._rules()
        algorithm: Any = ppo(self.recipe, weights).build_algo()
        if (self.directory / ALGORITHM).exists():
            algorithm.restore_from_path(str((self.directory / ALGORITHM).resolve()))
        try:
            iteration = int(algorithm.iteration)
            if iteration == 0:
                self._validated(algorithm, 0, 0, spent)
            transitions = self._transitions()
            started = time.monotonic()
            while spent + (time.monotonic() - started) / 60 < minutes:
                result = algorithm.train()
                iteration += 1
                transitions += int(result["env_runners"].get("num_env_steps_sampled", 0))
                now = spent + (time.monotonic() - started) / 60
                if iteration % 5 == 0:
                    self.say(_line(iteration, transitions, now, result))
                if iteration % self.recipe.validate_every == 0:
                    self._validated(algorithm, iteration, transitions, now)
            self._validated(algorithm, iteration, transitions, spent + (time.monotonic() - started) / 60)
        except KeyboardInterrupt:
            algorithm.save_to_path(str((self.directory / ALGORITHM).resolve()))
            raise
        finally:
            algorithm.stop()

    def _clone(self) -> dict[str, np.ndarray]:
        path = self.directory / CLONE
        if not path.exists() and not self.recipe.clone_worlds:
            save_file(initial_weights(self.recipe.seed), path)
        elif not path.exists():
            self.say(f"imitating the expert in {self.recipe.clone_worlds} worlds")
            save_file(clone(self.recipe, expert_episodes(self.recipe)), path)
        found: dict[str, np.ndarray] = load_file(path)
        return found

    def _rules(self) -> dict[str, Validation]:
        """The rules' results, worked out once."""
        path = self.directory / "rules.json"
        if not path.exists():
            found = {}
            for name, make in RULES.items():
                found[name] = self._validate(make).scores.tolist()
                self.say(f"meta-validation, {name}: {np.mean(found[name]):.4f}")
            path.write_text(json.dumps(found))
        return {name: Validation(scores=np.array(rows)) for name, rows in json.loads(path.read_text()).items()}

    def _validated(self, algorithm: PPO, iteration: int, transitions: int, minutes: float) -> None:
        """Validate, write the curve on, keep the weights if they are the best, and save the algorithm."""
        state = algorithm.learner_group.get_state(components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}")
        weights = numpy_weights(state[COMPONENT_LEARNER][COMPONENT_RL_MODULE][DEFAULT_MODULE_ID])
        result = self._validate(lambda: TokenPolicy(weights))
        against = {name: result.against(rule) for name, rule in self._baselines.items()}
        row = {
            "iteration": iteration,
            "transitions": transitions,
            "minutes": round(minutes, 2),
            "score": round(result.mean, 5),
            "against": {name: [round(number, 4) for number in pair] for name, pair in against.items()},
        }
        best = max((json.loads(line)["score"] for line in self._log_lines()), default=-np.inf)
        with open(self.directory / LOG, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        record = {"recipe": self.recipe.to_dict(), "meta_validation": row}
        store.write(self.directory / "last", weights, record)
        if result.mean > best:
            store.write(self.directory / BEST, weights, record)
        algorithm.save_to_path(str((self.directory / ALGORITHM).resolve()))
        compared = ", ".join(f"{name} {a:+.3f} ({p:.2f})" for name, (a, p) in against.items())
        self.say(f"meta-validation {result.mean:.4f} after {transitions:,} transitions: {compared}")

    def _validate(self, make_policy: Callable[[], Policy]) -> Validation:
        numbers = META_VALIDATION[: self.recipe.validation_worlds]
        return validate(make_policy, numbers=numbers, populations=self.recipe.validation_populations)

    def _log_lines(self) -> list[str]:
        path = self.directory / LOG
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _spent(self) -> float:
        lines = self._log_lines()
        return float(json.loads(lines[-1])["minutes"]) if lines else 0.0

    def _transitions(self) -> int:
        lines = self._log_lines()
        return int(json.loads(lines[-1])["transitions"]) if lines else 0


def _line(iteration: int, transitions: int, minutes: float, result: dict[str, Any]) -> str:
    numbers = result["learners"][DEFAULT_MODULE_ID]
    shown = {name: float(numbers.get(name, np.nan)) for name in ("entropy", "clone_kl", "vf_explained_var")}
    rate = transitions / max(minutes * 60, 1e-9)
    text = " ".join(f"{name}={value:.3f}" for name, value in shown.items())
    return f"iteration {iteration} transitions {transitions:,} minutes {minutes:.1f} ({rate:,.0f}/s) {text}"
