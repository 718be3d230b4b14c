"""The four algorithms: one function each that turns an ``Agent`` into RLlib's config.

The defaults suit the experience of one run: episodes of about twenty steps with rewards in [-2, 2], a few hundred to a
few thousand decisions in all, a network small enough for one CPU core. So batches are small and every transition is
used several times.

To add an algorithm: a function that returns its config and a line in ``CONFIGS`` here, a line in ``traits.TRAITS`` for
the acting side, and its network in ``network.networks``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.dqn import calculate_rr_weights
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from raytune_rl.rllib.feed import FeedRunner
from raytune_rl.rllib.modules import MaskedDQNModule
from raytune_rl.rllib.network import body_and_head
from raytune_rl.rllib.peers import PeerAdvantages, plain_pipeline
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Encoding, Sizes
from raytune_rl.rllib.team import ENTROPY, Team
from raytune_rl.rllib.team_feed import TeamFeedRunner
from raytune_rl.rllib.token_learner import CLONE_KL, ClonedPPOLearner
from raytune_rl.rllib.token_module import CloneLogits, TokenModule
from raytune_rl.rllib.tokens import TokenAgent
from raytune_rl.rllib.traits import TRAITS, batch_size

REPLAY = 5_000
"""Capacity of a replay buffer, in decisions: 60 MB, written to disk in about a second."""


def ppo(agent: Agent, encoding: Encoding, batch: int) -> AlgorithmConfig:
    """PPO: many epochs over small batches, which clipping keeps safe. The KL term would only slow the first updates."""
    return PPOConfig().training(
        lr=agent.learning_rate or 1e-3,
        train_batch_size_per_learner=batch,
        minibatch_size=min(batch, 64),
        num_epochs=10,
        lambda_=0.95,
        use_kl_loss=False,
        clip_param=0.2,
        entropy_coeff=0.01,
        vf_loss_coeff=0.5,
        grad_clip=1.0,
    )


def continued_ppo(agent: TokenAgent, encoding: Encoding, batch: int) -> AlgorithmConfig:
    """PPO from a controller's weights: few epochs, small steps, no entropy bonus (the controller explores as it has
    learned to), a KL term to its starting weights, and the other members as the baseline."""
    config = PPOConfig().training(
        lr=agent.learning_rate or 1e-4,
        train_batch_size_per_learner=batch,
        minibatch_size=None,
        num_epochs=4,
        use_kl_loss=False,
        clip_param=0.2,
        entropy_coeff=0.0,
        vf_loss_coeff=0.5,
        vf_clip_param=100.0,
        grad_clip=1.0,
    )
    return config.learners(
        learner_class=ClonedPPOLearner,
        learner_connector=lambda *_: [*plain_pipeline(), CloneLogits(), PeerAdvantages(gamma=agent.gamma)],
        add_default_connectors_to_learner_pipeline=False,
        learner_config_dict={CLONE_KL: agent.anchor},
    )


def appo(agent: Agent, encoding: Encoding, batch: int) -> AlgorithmConfig:
    """APPO: V-trace corrects for stale transitions. Its circular buffer would replay at random in a thread that cannot
    be seeded; a plain queue and several ``passes`` over each batch replay in a fixed order instead."""
    return APPOConfig().training(
        lr=agent.learning_rate or 1e-3,
        train_batch_size_per_learner=batch,
        use_circular_buffer=False,
        circular_buffer_num_batches=1,
        circular_buffer_iterations_per_batch=1,
        target_network_update_freq=0,  # at every update
        num_epochs=1,
        clip_param=0.3,
        entropy_coeff=0.01,
        vf_loss_coeff=0.5,
        grad_clip=1.0,
    )


def dqn(agent: Agent, encoding: Encoding, batch: int) -> AlgorithmConfig:
    """DQN over the heads in sequence. A decision is several steps, so the discount per step is the root of that per
    decision. ``epsilon`` counts decisions, not steps.
    """
    return DQNConfig().training(
        lr=agent.learning_rate or 1e-3,
        gamma=agent.gamma ** (1 / encoding.substeps),
        train_batch_size_per_learner=64,
        epsilon=TRAITS["DQN"].epsilon,
        num_steps_sampled_before_learning_starts=64 * encoding.substeps,
        target_network_update_freq=0,
        tau=0.02,
        n_step=1,
        dueling=False,
        training_intensity=_intensity(updates=8, train_batch=64, sampled=batch * encoding.substeps),
        replay_buffer_config={"type": "PrioritizedEpisodeReplayBuffer", "capacity": REPLAY * encoding.substeps},
    )


def sac(agent: Agent, encoding: Encoding, batch: int) -> AlgorithmConfig:
    """SAC on a box that is cut into bins."""
    rate = agent.learning_rate or 1e-3
    return SACConfig().training(
        actor_lr=rate,
        critic_lr=rate,
        alpha_lr=rate,
        train_batch_size_per_learner=64,
        initial_alpha=0.2,
        tau=0.02,
        num_steps_sampled_before_learning_starts=64,
        training_intensity=_intensity(updates=8, train_batch=64, sampled=batch),
        replay_buffer_config={"type": "PrioritizedEpisodeReplayBuffer", "capacity": REPLAY},
    )


CONFIGS: dict[str, Callable[[Agent, Encoding, int], AlgorithmConfig]] = {
    "PPO": ppo,
    "APPO": appo,
    "DQN": dqn,
    "SAC": sac,
}
"""By algorithm, a function of the agent, its encoding and the transitions per call of the learner."""


def build_config(agent: Agent, sizes: Sizes) -> AlgorithmConfig:
    """The complete RLlib config: new API stack, torch, learner and runner in the calling process.

    No seed is set here: RLlib would seed the process's global streams, switch torch to its deterministic mode, and
    import the compiler for that (seconds). ``AgentCore`` gives RLlib streams of its own instead.

    Raises:
        ValueError: ``agent.training`` holds something that RLlib does not accept.
    """
    # Until an Algorithm is built, which sets this level itself, RLlib would log advertisements of its new API stack.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    encoding = TRAITS[agent.algorithm].encoding(sizes)
    batch = batch_size(agent)
    if isinstance(agent, TokenAgent):
        config = continued_ppo(agent, encoding, batch)
    else:
        config = CONFIGS[agent.algorithm](agent, encoding, batch)
    if agent.algorithm != "DQN":
        config.training(gamma=agent.gamma)
    config.environment(env=None, observation_space=encoding.observation_space, action_space=encoding.action_space)
    config.framework("torch", torch_skip_nan_gradients=True)
    config.env_runners(env_runner_cls=FeedRunner, num_env_runners=0, rollout_fragment_length=batch * encoding.substeps)
    config.learners(num_learners=0, num_gpus_per_learner=agent.num_gpus)
    config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
    config.debugging(log_level="ERROR")
    team = Team.of(agent, sizes)
    if team is None:
        config.rl_module(rl_module_spec=_module_spec(agent, sizes))
    else:
        _set_team(config, agent, team)
    try:
        config.training(**agent.training)
        config.validate()
    except (TypeError, ValueError) as error:
        raise ValueError(f"Agent.training does not suit {agent.algorithm}: {error}") from error
    if hasattr(config, "training_intensity") and calculate_rr_weights(config)[0] != 1:
        raise ValueError(
            f"Agent.training: training_intensity={config.training_intensity} gives less than one update per batch of "
            f"{batch} transitions; raise it or Agent.batch."
        )
    return config


def _set_team(config: AlgorithmConfig, agent: Agent, team: Team) -> None:
    """Several agents with their modules; the episodes say which agent has which module."""
    specs = {}
    for name, sizes in team.modules.items():
        encoding = TRAITS[agent.algorithm].encoding(sizes)
        specs[name] = _module_spec(agent, sizes)
        specs[name].observation_space, specs[name].action_space = encoding.observation_space, encoding.action_space
    config.multi_agent(
        policies=set(specs),
        policy_mapping_fn=lambda agent_id, episode, **_: episode.module_for(agent_id),
    )
    config.env_runners(env_runner_cls=TeamFeedRunner)
    config.rl_module(
        rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs),
        algorithm_config_overrides_per_module={
            name: {"entropy_coeff": ENTROPY[name]} for name in team.modules if name in ENTROPY
        },
    )


def _module_spec(agent: Agent, sizes: Sizes) -> RLModuleSpec:
    if isinstance(agent, TokenAgent):
        hyperparameters = sizes.heads.index("source")
        return RLModuleSpec(
            module_class=TokenModule,
            model_config={"weights": dict(agent.start), "clone": True, "hyperparameters": hyperparameters},
        )
    hidden = list(agent.hidden)
    if agent.algorithm == "DQN":
        body, head = body_and_head(hidden)
        return RLModuleSpec(
            module_class=MaskedDQNModule,
            model_config={**_model(body, "relu", head), MaskedDQNModule.NVEC: list(sizes.nvec)},
        )
    if agent.algorithm == "SAC":
        body, head = body_and_head(hidden)
        return RLModuleSpec(model_config=_model(body, "relu", head))
    return RLModuleSpec(model_config=_model(hidden, "tanh", []))


def _model(body: list[int], activation: str, head: list[int]) -> dict[str, Any]:
    model = DefaultModelConfig(
        fcnet_hiddens=body,
        fcnet_activation=activation,
        head_fcnet_hiddens=head,
        head_fcnet_activation=activation,
        vf_share_layers=False,
    )
    return dict(vars(model))


def _intensity(*, updates: int, train_batch: int, sampled: int) -> float:
    """RLlib's ``training_intensity`` (steps replayed per step sampled) for ``updates`` per ``sampled`` steps."""
    return updates * train_batch / sampled
