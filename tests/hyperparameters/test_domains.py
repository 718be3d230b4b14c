"""Ray Tune's domains are read by their shape, and what cannot be steered is refused in one sentence."""

import subprocess
import sys

import numpy as np
import pytest
from ray import tune

from raytune_rl.hyperparameters import Choice, Float, Integer, Spec
from raytune_rl.hyperparameters.domains import hyperparameter


def read(domain, role="none"):
    return hyperparameter("x", Spec(domain=domain, role=role))


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (tune.uniform(0, 2), Float(name="x", lower=0.0, upper=2.0)),
        (tune.loguniform(1e-5, 1.0), Float(name="x", lower=1e-5, upper=1.0, log=True)),
        (tune.quniform(0.0, 0.6, 0.1), Float(name="x", lower=0.0, upper=0.6, step=0.1)),
        (tune.qloguniform(0.1, 10.0, 0.1), Float(name="x", lower=0.1, upper=10.0, log=True, step=0.1)),
        (tune.randint(1, 5), Integer(name="x", lower=1, upper=4)),
        (tune.lograndint(1, 1025), Integer(name="x", lower=1, upper=1024, log=True)),
        (tune.qrandint(16, 256, 16), Integer(name="x", lower=16, upper=256, step=16)),
        (tune.qrandint(10, 250, 32), Integer(name="x", lower=32, upper=224, step=32)),
        (tune.qrandint(1, 5, 1), Integer(name="x", lower=1, upper=4)),
        (tune.qlograndint(8, 128, 8), Integer(name="x", lower=8, upper=128, log=True, step=8)),
        (tune.choice(["relu", "tanh"]), Choice(name="x", options=("relu", "tanh"))),
        ([32, 64], Choice(name="x", options=(32, 64))),
        ((True, False), Choice(name="x", options=(True, False))),
        (np.array([1, 2]).tolist(), Choice(name="x", options=(1, 2))),
    ],
)
def test_domains_become_kinds(domain, expected) -> None:
    assert read(domain) == expected


@pytest.mark.parametrize(
    "domain",
    [
        tune.uniform(-3.0, 4.0),
        tune.loguniform(1e-5, 1.0),
        tune.quniform(0.0, 0.6, 0.1),
        tune.qloguniform(0.1, 10.0, 0.1),
        tune.randint(-3, 9),
        tune.lograndint(1, 300),
        tune.qrandint(10, 250, 32),
        tune.qlograndint(8, 128, 8),
        tune.choice([3, 1, 2]),
    ],
    ids=lambda domain: f"{type(domain).__name__}{domain.domain_str}",
)
def test_we_and_tune_agree_on_what_a_domain_holds(domain) -> None:
    kind = read(domain)
    rng = np.random.default_rng(0)
    theirs = [domain.sample(random_state=rng) for _ in range(300)]
    assert all(kind.decode(kind.encode(value)) == pytest.approx(value) for value in theirs)
    ours = [kind.decode(float(position)) for position in rng.random(300)]
    assert all(domain.is_valid(value) for value in ours)
    if not isinstance(kind, Float):
        common = {value for value in set(ours) if ours.count(value) > 12}
        assert common <= set(theirs)


def test_numpy_options_become_plain_numbers() -> None:
    kind = read(tune.choice(list(np.array([1, 2]))))
    assert [type(option) for option in kind.options] == [int, int]


def test_role_and_liveness_are_kept() -> None:
    kind = hyperparameter("lr", Spec(domain=tune.loguniform(1e-3, 1), role="learning_rate", live=False))
    assert (kind.name, kind.role, kind.live) == ("lr", "learning_rate", False)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (tune.loguniform(1, 0.1), "range 1 to 0.1 does not work here, the lower bound must be smaller"),
        (tune.uniform(0.6, 0.0), "the lower bound must be smaller"),
        (tune.randint(5, 5), "the lower bound must be smaller"),
        (tune.randint(3, 4), "has one value"),
        (tune.qrandint(1, 5, 3), "must hold two multiples"),
        (tune.randn(0, 1), "tune.randn does not work here, it has no bounds"),
        (tune.qrandn(0, 1, 0.5), "tune.randn does not work here, it has no bounds"),
        (tune.grid_search([1, 2]), "an agent cannot steer a grid"),
        (tune.sample_from(lambda config: 1), "tune.sample_from does not work here"),
        (tune.choice([]), "a choice needs at least one option"),
        (0.1, "0.1 does not work here, it must be a Ray Tune domain"),
        (None, "it must be a Ray Tune domain"),
        (lambda: 0.1, "it must be a Ray Tune domain"),
    ],
)
def test_what_cannot_be_steered_is_refused_in_one_sentence(domain, message) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read(domain)
    assert str(refused.value).startswith("hyperparameter 'x': ")
    assert "\n" not in str(refused.value)


def test_a_log_scale_that_includes_zero_is_refused_even_where_tune_was_bypassed() -> None:
    domain = tune.loguniform(0.1, 1.0)
    domain.lower = 0.0
    with pytest.raises(ValueError, match="a log scale cannot include 0"):
        read(domain)


def test_nothing_of_ray_or_torch_is_needed_to_read_a_space() -> None:
    code = (
        "import sys, raytune_rl.hyperparameters, raytune_rl.mdp;"
        "sys.exit(any(name.split('.')[0] in ('ray', 'torch') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
