"""How orders reach a trial: straight to its running actor, or with a pause and a restart.

Tune has no public way to call a running trial's actor. ``InPlace`` does it with the private calls in ``adapter.py``, so
that trials train on while decisions are made. ``ByPause`` is the fallback for versions of Ray that those calls were not
checked with. It uses public calls only: the trial is paused, which saves it, and finds its orders in its configuration
when Tune starts it again. That is slow, but correct.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raytune_rl.tune import adapter
from raytune_rl.tune.hosts.transfers import Orders

logger = logging.getLogger(__name__)

CONTINUE, NOOP = str(TrialScheduler.CONTINUE), str(TrialScheduler.NOOP)
PAUSE, STOP = str(TrialScheduler.PAUSE), str(TrialScheduler.STOP)


class Delivery(Protocol):
    """Brings orders to trials.

    Attributes:
        waiting: what to answer Tune about a trial that has to wait, or that ``deliver_and_train`` has sent on.
        saves_first: a trial saves its state before it takes its orders, so the tables must be durable before it gets
            them.
    """

    waiting: str
    saves_first: bool

    def received(self, tune_controller: Any, trial: Trial) -> None:
        """A result of ``trial`` has arrived."""
        ...

    def answer(self, *, over: bool, interrupted: bool) -> str:
        """What to answer Tune about a trial whose orders have been delivered.

        Args:
            over: it has nothing more to train in this run.
            interrupted: the whole run ends here.
        """
        ...

    def deliver(self, trial: Trial, orders: Orders) -> None:
        """Send orders to a trial that waits."""
        ...

    def deliver_and_train(self, tune_controller: Any, trial: Trial, orders: Orders) -> None:
        """Send orders to a trial that waits, and let it train on."""
        ...

    def commit(self, trial: Trial) -> None:
        """Have a trial write the state that its last orders made it stage."""
        ...

    def resume(self, tune_controller: Any, trial: Trial) -> None:
        """Let a trial that waits train on, unless Tune does so by itself."""
        ...

    def export(self, trial: Trial, member: int, kind: str) -> ray.ObjectRef | None:
        """A reference to the weights of one of the trial's members; ``None`` if only its state file has them."""
        ...


class InPlace:
    """Calls the trials' actors (``Delivery``)."""

    waiting = NOOP
    saves_first = False

    def received(self, tune_controller: Any, trial: Trial) -> None:
        adapter.forget_finished(tune_controller, trial)

    def answer(self, *, over: bool, interrupted: bool) -> str:
        return STOP if over else CONTINUE

    def deliver(self, trial: Trial, orders: Orders) -> None:
        adapter.submit(trial, "apply", orders)

    def deliver_and_train(self, tune_controller: Any, trial: Trial, orders: Orders) -> None:
        adapter.train_on(tune_controller, trial, "follow_and_train", orders)

    def commit(self, trial: Trial) -> None:
        adapter.submit(trial, "commit")

    def resume(self, tune_controller: Any, trial: Trial) -> None:
        adapter.resume_training(tune_controller, trial)

    def export(self, trial: Trial, member: int, kind: str) -> ray.ObjectRef | None:
        return adapter.submit(trial, "export_state", member, kind)


class ByPause:
    """Writes orders into the trials' configurations, and pauses the trials (``Delivery``)."""

    waiting = PAUSE
    saves_first = True

    def __init__(self) -> None:
        logger.warning(
            "ray %s is not among the versions checked (%s): each decision takes a pause and a restart (slow)",
            ray.__version__,
            ", ".join(adapter.CHECKED),
        )

    def received(self, tune_controller: Any, trial: Trial) -> None:
        pass

    def answer(self, *, over: bool, interrupted: bool) -> str:
        # A trial whose members have all stopped is paused once more: it comes back, finds that, and ends by itself.
        return STOP if interrupted else PAUSE

    def deliver(self, trial: Trial, orders: Orders) -> None:
        trial.set_config({**trial.config, "orders": orders})

    def deliver_and_train(self, tune_controller: Any, trial: Trial, orders: Orders) -> None:
        self.deliver(trial, orders)  # it trains when Tune starts it again

    def commit(self, trial: Trial) -> None:
        pass  # the pause has saved it

    def resume(self, tune_controller: Any, trial: Trial) -> None:
        pass  # Tune starts it when ``choose_trial_to_run`` names it

    def export(self, trial: Trial, member: int, kind: str) -> ray.ObjectRef | None:
        return None
