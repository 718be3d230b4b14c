"""The model card of an ensemble: who is in it, what it is worth, how its members were trained, how to load it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from raytune_rl.analysis.lineage import find_rows, parents, path_to
from raytune_rl.combining.calibration import Calibration
from raytune_rl.ensemble.building import Built, Chosen
from raytune_rl.ensemble.kept import Place
from raytune_rl.population.export import importable_name
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.texts import count, number

LEGS = 12
"""Changes of the hyperparameters that a member's history shows at most, beside the values at its start."""
AVERAGED: Mapping[str, str] = {
    "softmax": "class probabilities; the outputs are their logarithms, so losses and metrics for logits fit",
    "sigmoid": "probabilities; the outputs are their logits",
    "log": "probabilities; the outputs are their logarithms",
    "probability": "probabilities",
    "identity": "outputs",
}


def model_card(
    built: Built,
    task: TorchTask,
    segments: pd.DataFrame,
    *,
    name: str,
    directory: str,
    test: Mapping[str, float],
    best: Mapping[str, float],
) -> str:
    """The text of ``ensemble/README.md``.

    Args:
        segments: the run's table, for the members' histories.
        name: of the experiment.
        directory: the run directory, as a user can paste it.
        test: the ensemble's metrics on the test split.
        best: metrics of the single model that the run delivers, on validation and test.
    """
    table = segments.sort_values(["member", "segment"], ignore_index=True)
    model = built.model
    single = [name for name in best if name in built.metrics or name in test]
    names = [*(n for n in built.metrics if n not in single), *(n for n in test if n not in single)]
    scores = _table(
        ("metric", "ensemble", "the single model that the run delivers"),
        [
            (metric, number({**built.metrics, **test}.get(metric)), number(best.get(metric)))
            for metric in (*single, *names)
        ],
    )
    members = _table(
        ("weight", "member", "after segment", "kept as", "its own loss"),
        [(f"{m.weight:.3f}", m.kept.member, m.kept.segment, _origin(m), number(m.loss)) for m in built.members],
    )
    return f"""# Ensemble of {name}

{count(len(built.members), "members")} out of {count(built.candidates, "candidates")}, kept as one `torch.nn.Module`. It
averages {AVERAGED[model.link]}.

```python
import raytune_rl

model = raytune_rl.load({directory!r}, ensemble=True)  # nothing is unpickled
outputs = model(inputs)  # inputs: {_shape(built)}
```

`model.outputs(inputs)` gives every member's own outputs, shape (members, rows, ...).

## What it is worth

{scores}

Members, weights and calibration were chosen on the validation split, so its figures flatter; the test split was used
once, for this table. Validation loss of the combination {number(built.loss)}, of its members on their own
{number(built.loss + built.metrics["validation_ambiguity"])} on average.{_calibrated(model.calibration)}

## Members

{members}

## Data and network

- data: `{_called(task.data)}`, its train split for training, its validation split for every choice
- network: `{_called(task.network)}`, loss: `{_called(task.loss)}`
- parameters: {sum(p.numel() for p in model.parameters()):,} in all members together

## How the members were trained

{_histories(built.members, table)}"""


def _histories(members: Sequence[Chosen], table: pd.DataFrame) -> str:
    """The hyperparameters of each member, and of each ingredient of a soup, along the weights' own path, copies
    included."""
    parent = parents(table)
    places = dict.fromkeys(place for one in members for place in (one.ingredients or (one.kept.place,)))
    histories = (_history(place, table, parent) for place in places)
    return "\n\n".join(history for history in histories if history) + "\n"


def _history(place: Place, table: pd.DataFrame, parent: np.ndarray) -> str:
    """The values that training to ``place`` began with, and the last changes of them; empty where the run's table does
    not know of it."""
    columns = [column for column in table.columns if str(column).startswith("hp/")]
    row = int(find_rows(table, *(np.array([value], dtype=np.int64) for value in place))[0])
    if row < 0:
        return ""
    legs = table.iloc[path_to(parent, row)]
    kept = legs[legs[columns].ne(legs[columns].shift()).any(axis=1).to_numpy(bool)]
    lines = [
        (leg["member"], leg["segment"], *(number(_plain(leg[column])) for column in columns))
        for _, leg in kept.astype(object).iterrows()
    ]
    left_out = len(lines) - 1 - LEGS
    if left_out > 0:
        lines = [lines[0], ("...",) * len(lines[0]), *lines[-LEGS:]]
    shortened = f", the values at the start and the last {LEGS} changes of them" if left_out > 0 else ""
    return f"Member {place[0]} after segment {place[1]}: {count(len(legs), 'segments')}{shortened}.\n\n" + _table(
        ("member", "from segment", *(str(column).removeprefix("hp/") for column in columns)), lines
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _origin(one: Chosen) -> str:
    if one.kept.origin != "soup":
        return one.kept.origin
    return f"average of the weights of {count(len(one.ingredients), 'states')}: " + ", ".join(
        f"member {member} after {segment}" for member, segment in one.ingredients
    )


def _calibrated(calibration: Calibration) -> str:
    return "" if calibration == Calibration() else f" Calibrated: {calibration.in_words()}."


def _shape(built: Built) -> str:
    dtype = str(built.example.dtype).removeprefix("torch.")
    return f"{dtype} of shape ({', '.join(['rows', *(str(size) for size in built.example.shape[1:])])})"


def _called(what: Any) -> str:
    return importable_name(what) or str(getattr(what, "__name__", type(what).__name__))


def _plain(cell: Any) -> Any:
    return None if pd.isna(cell) else cell
