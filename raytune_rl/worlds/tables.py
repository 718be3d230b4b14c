"""Real tables for choices about the controller. Number of rows, network, batch size and segment length are drawn once
for each.

A controller learns from generated tasks, which do not show everything about real data: one-hot columns, rare classes,
models that are right on every validation row and wrong on others. So choices about the controller (starting values,
calibration of the delivered model) are also tried on ``TRAIN`` and then checked on ``VALIDATION``. ``TRAIN`` may also
be a part of meta-training (``meta.recipe.Recipe.tables``). None of this data is a task that controllers are evaluated
on (``real.py``): ``pydataset``'s tables of breast cancer are left out, because breast cancer is one of those tasks.

The data: tables of R's packages from ``pydataset``, and four sets of series from ``aeon``. Neither package is imported.
"""

from __future__ import annotations

import functools
import io
import tarfile
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.population.packed.losses import LossName
from raytune_rl.population.splits import Split, Splits
from raytune_rl.tasks.splitting import three_way
from raytune_rl.worlds.draws import log_uniform
from raytune_rl.worlds.generator import World, populated
from raytune_rl.worlds.networks import Family, draw_network
from raytune_rl.worlds.real import ROWS, Table, packaged, read_series, study_space
from raytune_rl.worlds.task import WorldTask

FEWEST: Final = 150
"""When only a part of a table's rows is used, it has at least this many."""
RARE, LEVELS, MISSING = 10, 60, 0.3
"""Left out are classes with fewer rows than ``RARE``, and columns with more categories than ``LEVELS`` or a share of
missing values of ``MISSING`` or more."""
STEPS: Final = 25
"""Longer series are averaged to this number of points."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a table comes from.

    Attributes:
        files: names of files in ``pydataset``, separated by spaces. Their rows are concatenated.
        target: the target's column. With two columns joined by ``+``, each combination of their values is a class.
        leave: columns to leave out, separated by spaces: they give the target away or carry no information.
        numeric: whether the target is a number, for a regression.
    """

    files: str
    target: str
    leave: str = ""
    numeric: bool = False


SOURCES: Final[dict[str, Source]] = {
    "pima": Source("MASS/Pima.tr MASS/Pima.te", "type"),
    "glass": Source("MASS/fgl", "type"),
    "crabs": Source("MASS/crabs", "sp+sex", "index"),
    "mortality": Source("survival/flchain", "death", "futime chapter"),
    "mortgages": Source("Ecdat/Hdma", "deny"),
    "women_at_work": Source("Ecdat/Mroz", "work", "hoursw hearnw wagew"),
    "swiss_labour": Source("Ecdat/Participation", "lfp"),
    "health_insurance": Source("Ecdat/HI", "hhi", "hhi2"),
    "chile": Source("car/Chile", "vote"),
    "turnout": Source("Zelig/turnout", "vote"),
    "big_five": Source("psych/bfi", "gender"),
    "commuting": Source("Ecdat/Mode", "choice"),
    "cars": Source("Ecdat/Car", "choice"),
    "heating": Source("Ecdat/Heating", "depvar", "idcase"),
    "crackers": Source("Ecdat/Cracker", "choice", "id"),
    "ketchup": Source("Ecdat/Catsup", "choice", "id"),
    "diamonds": Source("ggplot2/diamonds", "cut"),
    "titanic": Source("COUNT/titanic", "survived"),
    "verbal_aggression": Source("lme4/VerbAgg", "resp", "id r2"),
    "vote92": Source("pscl/vote92", "vote"),
    "benefits": Source("Ecdat/Benefits", "ui"),
    "class_size": Source("Ecdat/Star", "classk", "schidkn"),
    "mexico": Source("Zelig/mexico", "vote88", "pri82 pan82 novote82"),
    "colon": Source("survival/colon", "status", "id time etype"),
    "wilms": Source("survival/nwtco", "rel", "seqno edrel"),
    "fishing": Source("Ecdat/Fishing", "mode", "price catch"),
    "yogurt": Source("Ecdat/Yogurt", "choice", "id"),
    "unions": Source("Ecdat/Males", "union", "nr"),
    "vietnam": Source("Ecdat/VietNamI", "insurance"),
    "boston": Source("MASS/Boston", "medv", numeric=True),
    "computers": Source("Ecdat/Computers", "price", "trend", numeric=True),
    "housing": Source("Ecdat/Housing", "price", numeric=True),
    "diamond_prices": Source("ggplot2/diamonds", "price", numeric=True),
    "wages": Source("Ecdat/Wages", "lwage", numeric=True),
    "salaries": Source("car/Salaries", "salary", numeric=True),
    "griliches": Source("Ecdat/Griliches", "lw", "lw80", numeric=True),
    "schools": Source("Ecdat/Caschool", "testscr", "distcod district readscr mathscr county", numeric=True),
    "nitrogen": Source("robustbase/NOxEmissions", "LNOx", "julday", numeric=True),
    "quakes": Source("datasets/quakes", "mag", numeric=True),
    "food": Source("Ecdat/BudgetFood", "wfood", numeric=True),
}
SERIES: Final = {"power": "ItalyPowerDemand", "gun": "GunPoint", "leaves": "OSULeaf", "arrowheads": "ArrowHead"}

VALIDATION: Final = (
    *("crabs", "women_at_work", "chile", "commuting", "crackers", "titanic", "benefits", "colon", "yogurt"),
    *("computers", "wages", "schools", "food", "leaves"),
)
OPTIMIZERS: Final[tuple[OptimizerName, ...]] = ("sgd", "adam")
TRAIN: Final = tuple(name for name in (*SOURCES, *SERIES) if name not in VALIDATION)


def table_world(number: int) -> World:
    """The world with this number to learn in: one of ``TRAIN``, with a draw of its own, and a population.

    Raises:
        ModuleNotFoundError: its data is in a package that is not installed.
    """
    rng = np.random.default_rng([number, 0x7AB1])
    name, optimizer = TRAIN[rng.integers(len(TRAIN))], OPTIMIZERS[rng.integers(len(OPTIMIZERS))]
    return populated(number, table_task(name, optimizer, draw=1 + number), rng)  # draw 0 is for choices


def table_task(name: str, optimizer: OptimizerName, *, draw: int = 0) -> WorldTask:
    """One of ``TRAIN`` or ``VALIDATION``. Rows and network do not depend on the optimiser.

    Args:
        draw: number of the random draw of rows, splits, network, batch size and segment length. Choices are made on
            draw 0.

    Raises:
        ModuleNotFoundError: its data is in a package that is not installed.
    """
    inputs, targets = _series(SERIES[name]) if name in SERIES else _table(SOURCES[name])
    rng = np.random.default_rng([*name.encode(), draw] if draw else list(name.encode()))
    count = len(inputs)
    if rng.random() < 0.5:
        count = int(log_uniform(rng, min(FEWEST, count), count))
    chosen = rng.permutation(len(inputs))[:count]
    inputs, targets = inputs[chosen], targets[chosen]
    regression = targets.dtype.kind == "f"
    outputs = 1 if regression else int(targets.max()) + 1
    family: Family = "convolution" if name in SERIES and rng.random() < 0.7 else "dense"
    network = draw_network(rng, inputs.shape[1], outputs, family=family)
    train, validation, test = (
        Split(inputs=torch.from_numpy(x), targets=torch.from_numpy(y))
        for x, y in three_way(inputs, targets, seed=draw, classes=not regression)
    )
    loss: LossName = "mse" if regression else "cross_entropy"
    return WorldTask(
        name=f"{name}/{optimizer}",
        splits=Splits(train=train, validation=validation, test=test),
        network=network,
        loss=loss,
        optimizer=optimizer,
        batch_size=int(rng.choice([16, 32, 64])),
        segment_length=int(log_uniform(rng, 10, 30)),
        space=study_space(smoothing=not regression),
    )


@functools.lru_cache(maxsize=len(SOURCES))
def _table(source: Source) -> Table:
    """At most ``ROWS`` rows without missing values: numeric columns, and one-hot categories. Numeric targets are
    standardised."""
    import pandas as pd

    table = pd.concat([_csv(file) for file in source.files.split()], ignore_index=True)
    columns = source.target.split("+")
    table = table.drop(columns=source.leave.split()).dropna(subset=columns)
    inputs = table.drop(columns=columns)
    inputs = inputs.loc[:, inputs.isna().mean() < MISSING].dropna()
    categories = inputs.select_dtypes(exclude="number")
    inputs = inputs.drop(columns=[column for column in categories if categories[column].nunique() > LEVELS])
    inputs = inputs.sample(frac=1.0, random_state=0)[:ROWS]
    rows = pd.get_dummies(inputs).to_numpy(dtype=np.float64)
    answers = table.loc[inputs.index, columns]
    if source.numeric:
        return rows, _standardised(answers.to_numpy(dtype=np.float64))
    classes = pd.factorize(answers.astype(str).agg("/".join, axis=1), sort=True)[0]
    kept = np.isin(classes, np.flatnonzero(np.bincount(classes) >= RARE))
    return rows[kept], np.unique(classes[kept], return_inverse=True)[1].astype(np.int64)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Scaled to mean 0 and standard deviation 1, (N, 1). Positive values with a long tail, such as prices, are replaced
    by their logarithms first."""
    if (values > 0).all() and values.max() > 5 * np.median(values):
        values = np.log(values)
    return ((values - values.mean()) / values.std()).astype(np.float32)


def _csv(name: str) -> Any:
    """A table of ``pydataset``, without its column of row names."""
    import pandas as pd

    return pd.read_csv(io.BytesIO(_files()[f"resources/rdata/csv/{name}.csv"]), low_memory=False).iloc[:, 1:]


@functools.cache
def _files() -> dict[str, bytes]:
    """The contents of all files of ``SOURCES``, by name. A pass through the archive takes over a second, so it is read
    only once."""
    wanted = {f"resources/rdata/csv/{file}.csv" for source in SOURCES.values() for file in source.files.split()}
    contents: dict[str, bytes] = {}
    with tarfile.open(packaged("pydataset") / "resources.tar.gz") as archive:
        for entry in archive:
            content = archive.extractfile(entry) if entry.name in wanted else None
            if content is not None:
                contents[entry.name] = content.read()
    return contents


@functools.lru_cache(maxsize=len(SERIES))
def _series(name: str) -> Table:
    """Series of one channel, averaged to at most ``STEPS`` points, and their classes."""
    rows, answers = read_series(name, name)
    inputs = np.array(rows)
    if inputs.shape[1] > STEPS:
        pieces = np.array_split(np.arange(inputs.shape[1]), STEPS)
        inputs = np.stack([inputs[:, piece].mean(axis=1) for piece in pieces], axis=1)
    return inputs, np.unique(answers, return_inverse=True)[1].astype(np.int64)
