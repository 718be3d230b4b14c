"""All rows of the comparison, by their fixed names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quality.harness import Method
from quality.populations import controlled, pb2, pbt, static
from quality.protocol import RANKED
from quality.searches import asha, bohb, tpe
from quality.starts import default, grid, uniform
from raytune_rl.controller.policies import Cosine, Fixed, Random
from raytune_rl.controller.policy import Choice, Situation
from raytune_rl.controller.tokens import TokenPolicy, initial_weights
from raytune_rl.pretrained import Pretrained

Kind = Literal["simple", "peer", "structure", "ours"]
"""A rule without search; a tool of the field; our controller without what it has learned, or such a rule or tool with
our average in place of its best checkpoint; our controller with what it has learned."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method, and what it is in the table.

    Attributes:
        together: members of one run that train at the same time; ``None``: a population's.
        delivers: whether it is judged by the average of its members' checkpoints (``worlds.delivery``) that a run of
            this package delivers, and not by the best checkpoint.
    """

    kind: Kind
    method: Method
    together: int | None = None
    delivers: bool = False

    def side_by_side(self, members: int) -> int:
        """Members of one run that train at the same time."""
        return members if self.together is None else self.together


class StartsOnly(TokenPolicy):
    """Starts where our network starts before it has learned anything, under our cosine, and changes nothing.

    Args:
        select: a member that three quarters of the others are better than takes the best one's weights and values
            wherever our controller may copy: selection without any move.
    """

    def __init__(self, *, select: bool) -> None:
        super().__init__(initial_weights(0))
        self._select = select

    def act(self, situations: Sequence[Situation]) -> Sequence[Choice]:
        return [super(StartsOnly, self).act([s])[0] if s.first else self._later(s) for s in situations]

    def _later(self, situation: Situation) -> Choice:
        action = list(self._action.neutral)
        rank, allowed = (float(situation.observation[self._observation.index(n)]) for n in ("rank", "copy_allowed"))
        if self._select and allowed and rank > 0.75:
            source = next(index for index, head in enumerate(self._action.heads) if head.name == "source")
            action[source] = self._action.sources.index("best")
        return Choice(action=tuple(action))


def rows(directory: str | None = None) -> Mapping[str, Row]:
    """All of them, in the table's order; ``directory``: of a controller other than the shipped one."""
    fresh = initial_weights(0)
    found = {
        "random": Row(kind="simple", method=static(uniform, cosine=False)),
        "random + cosine": Row(kind="simple", method=static(uniform, cosine=True)),
        "hand default + cosine": Row(kind="simple", method=static(default, cosine=True)),
        "grid + cosine": Row(kind="simple", method=static(grid, cosine=True)),
    }
    for cosine, ending in ((False, ""), (True, " + cosine")):
        found |= {
            f"TPE{ending}": Row(kind="peer", method=tpe(cosine=cosine), together=1),
            f"TPE from grid{ending}": Row(kind="peer", method=tpe(cosine=cosine, starts=grid), together=1),
            f"ASHA{ending}": Row(kind="peer", method=asha(cosine=cosine)),
            f"ASHA from grid{ending}": Row(kind="peer", method=asha(cosine=cosine, starts=grid)),
            f"BOHB{ending}": Row(kind="peer", method=bohb(cosine=cosine), together=16),
            f"PB2{ending}": Row(kind="peer", method=pb2(uniform, cosine=cosine)),
            f"PB2 from grid{ending}": Row(kind="peer", method=pb2(grid, cosine=cosine)),
        }
        for interval in (1, 2):
            found |= {
                f"PBT/{interval}{ending}": Row(kind="peer", method=pbt(uniform, interval=interval, cosine=cosine)),
                f"PBT/{interval} from grid{ending}": Row(
                    kind="peer", method=pbt(grid, interval=interval, cosine=cosine)
                ),
            }
    found |= {
        "grid + cosine, averaged": _delivering("structure", static(grid, cosine=True, deliver=True)),
        "PBT/1 from grid, averaged": _delivering("structure", pbt(grid, interval=1, cosine=False, deliver=True)),
        "PBT/2 from grid + cosine, averaged": _delivering(
            "structure", pbt(grid, interval=2, cosine=True, deliver=True)
        ),
        "PBT/1 from grid, refit": _delivering(
            "structure", pbt(grid, interval=1, cosine=False, deliver=True, refit=True)
        ),
        "controller, random actions": _delivering("structure", controlled(Random, deliver=True)),
        "controller, does nothing": Row(kind="structure", method=controlled(Cosine)),
        "controller, no schedule": Row(kind="structure", method=controlled(Fixed)),
        "controller, untrained": _delivering("structure", controlled(lambda: TokenPolicy(fresh), deliver=True)),
        "our starts, then nothing": Row(kind="structure", method=controlled(lambda: StartsOnly(select=False))),
        "our starts, selection only": _delivering(
            "structure", controlled(lambda: StartsOnly(select=True), deliver=True)
        ),
        RANKED: _delivering("ours", controlled(lambda: Pretrained(directory), deliver=True)),
        "ours, refit": _delivering("ours", controlled(lambda: Pretrained(directory), deliver=True, refit=True)),
        "ours, best checkpoint": Row(kind="ours", method=controlled(lambda: Pretrained(directory))),
        "ours, learning on": _delivering("ours", controlled(lambda: Pretrained(directory, learn=True), deliver=True)),
    }
    return found


def _delivering(kind: Kind, method: Method) -> Row:
    return Row(kind=kind, method=method, delivers=True)
