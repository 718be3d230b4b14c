"""Meta-training with RLlib: BC of the expert, then PPO with ``MetaAdvantages``. Both train the token module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from raytune_rl.controller.tokens import MEMBER, TOKEN
from raytune_rl.hyperparameters import LEVELS
from raytune_rl.mdp.action import SOURCES
from raytune_rl.meta.advantages import MetaAdvantages
from raytune_rl.meta.episodes import SLOTS, episodes_of, play
from raytune_rl.meta.expert import Expert
from raytune_rl.meta.recipe import Recipe
from raytune_rl.meta.runner import PACK, SEEDS, TABLES, WORLDS, WorldRunner
from raytune_rl.rllib.peers import plain_pipeline
from raytune_rl.rllib.token_learner import CLONE_KL, ClonedPPOLearner
from raytune_rl.rllib.token_module import CloneLogits, TokenModule
from raytune_rl.rllib.tokens import from_module
from raytune_rl.worlds.generator import META_TRAIN, make_world


def spaces(slots: int) -> tuple[gym.spaces.Box, gym.spaces.MultiDiscrete]:
    """The spaces of observations and actions of tasks with up to ``slots`` hyperparameters."""
    sizes = np.array([LEVELS] * slots + [len(SOURCES)], dtype=np.int64)
    return gym.spaces.Box(-4.0, 4.0, (MEMBER + slots * TOKEN,), np.float32), gym.spaces.MultiDiscrete(sizes)


OBSERVATIONS, ACTIONS = spaces(SLOTS)


def clone(recipe: Recipe, played: Sequence[SingleAgentEpisode]) -> dict[str, np.ndarray]:
    """Weights that imitate the episodes ``played``, by RLlib's BC."""
    config = common(BCConfig(), recipe, module={"seed": recipe.seed})
    config.training(lr=2e-3, train_batch_size_per_learner=recipe.minibatch)
    config.learners(learner_connector=lambda *_: plain_pipeline(), add_default_connectors_to_learner_pipeline=False)
    return train_on(config, recipe, played)


def train_on(config: Any, recipe: Recipe, played: Sequence[SingleAgentEpisode]) -> dict[str, np.ndarray]:
    """The weights after ``clone_epochs`` passes over the episodes ``played``, with the learner of ``config``."""
    group = config.build_learner_group()
    steps = sum(len(episode) for episode in played)
    group.update(
        episodes=list(played),
        num_epochs=recipe.clone_epochs,
        minibatch_size=min(recipe.minibatch, steps),
        shuffle_batch_per_epoch=True,
    )
    state = group.get_state(components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}")
    return from_module(state[COMPONENT_LEARNER][COMPONENT_RL_MODULE][DEFAULT_MODULE_ID])


def expert_episodes(recipe: Recipe) -> list[SingleAgentEpisode]:
    """Episodes of the expert, in ``clone_worlds`` random worlds of ``META_TRAIN``."""
    numbers = np.random.default_rng([recipe.seed, 0xC10]).integers(len(META_TRAIN), size=recipe.clone_worlds)
    return [e for number in numbers for e in episodes_of(play(make_world(int(number)), Expert, groups=2))]


def ppo(recipe: Recipe, weights: Mapping[str, np.ndarray], *, first: int = 0) -> PPOConfig:
    """PPO that starts with ``weights``, with ``WorldRunner``s and ``MetaAdvantages``. ``first`` is the iteration at
    which it starts or resumes, so that after resuming other worlds are played."""
    config = common(PPOConfig(), recipe, module={"weights": dict(weights), "clone": recipe.clone_kl > 0})
    config.training(
        lr=recipe.learning_rate,
        learner_class=ClonedPPOLearner,
        minibatch_size=recipe.minibatch,
        num_epochs=recipe.epochs,
        clip_param=recipe.clip,
        entropy_coeff=recipe.entropy,
        vf_loss_coeff=0.5,
        vf_clip_param=100.0,
        use_kl_loss=False,
        grad_clip=1.0,
        train_batch_size_per_learner=recipe.minibatch,  # a lower bound: a batch is one sample of each runner
    )
    config.learners(
        learner_connector=lambda *_: [
            *plain_pipeline(),
            CloneLogits(),
            MetaAdvantages(lineage=recipe.lineage, group=recipe.group, team=recipe.team),
        ],
        add_default_connectors_to_learner_pipeline=False,
        learner_config_dict={CLONE_KL: recipe.clone_kl},
    )
    config.env_runners(
        env_runner_cls=WorldRunner,
        num_env_runners=recipe.runners,
        num_cpus_per_env_runner=0.5,
        num_gpus_per_env_runner=recipe.num_gpus_per_env_runner,
        rollout_fragment_length="auto",
        sample_timeout_s=600.0,
    )
    settings = {WORLDS: recipe.worlds, PACK: recipe.pack, TABLES: recipe.tables, SEEDS: [recipe.seed, first]}
    config.environment(env_config=settings)
    config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
    return config


def common(config: Any, recipe: Recipe, *, module: Mapping[str, Any], slots: int = SLOTS) -> AlgorithmConfig:
    """``config`` with the settings that all algorithms share: ``TokenModule`` with the model config ``module``, and one
    local learner. Changes ``config`` in place."""
    observations, actions = spaces(slots)
    config.environment(env=None, observation_space=observations, action_space=actions)
    config.framework("torch", torch_skip_nan_gradients=True)
    config.learners(num_learners=0)
    config.debugging(log_level="ERROR", seed=recipe.seed)
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=TokenModule, model_config=dict(module)))
    completed: AlgorithmConfig = config
    return completed
