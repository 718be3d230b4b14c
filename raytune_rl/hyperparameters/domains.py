"""Reads what users write (Ray Tune's domains) without importing Ray.

A domain is recognised by its shape: ``categories``, or ``lower`` and ``upper`` with a sampler that prints as
``Uniform`` or ``LogUniform``, perhaps inside another sampler with a grid ``q``. So this module also works without Ray,
and it rejects mistakes that Tune accepts (``tune.loguniform(1, 0.1)``). The shapes are those of
``ray/tune/search/sample.py`` in Ray 2.60.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raytune_rl.hyperparameters.kinds import Choice, Float, Hyperparameter, Integer
from raytune_rl.hyperparameters.roles import Spec


def hyperparameter(name: str, spec: Spec) -> Hyperparameter:
    """The typed hyperparameter that ``spec`` describes.

    Raises:
        ValueError: the domain cannot be searched (one sentence with the name, what was written and what is right).
    """
    domain = spec.domain
    if isinstance(domain, Mapping) and "grid_search" in domain:
        raise _domain_error(name, "tune.grid_search", "an agent cannot steer a grid: write tune.choice([...])")
    if isinstance(domain, list | tuple):
        return _choice(name, domain, spec)
    if hasattr(domain, "categories"):
        if domain.is_grid():
            raise _domain_error(name, "tune.grid_search", "an agent cannot steer a grid: write tune.choice([...])")
        return _choice(name, domain.categories, spec)
    if hasattr(domain, "func"):
        raise _domain_error(
            name, "tune.sample_from", "it has no bounds: write tune.uniform, tune.loguniform or tune.choice"
        )
    if all(hasattr(domain, attribute) for attribute in ("lower", "upper", "cast", "get_sampler")):
        return _number(name, domain, spec)
    raise _domain_error(
        name, repr(domain), "it must be a Ray Tune domain such as tune.loguniform(1e-5, 1.0), or a list of options"
    )


def _choice(name: str, options: Any, spec: Spec) -> Choice:
    # numpy scalars become plain Python, which is what candidates and tables expect.
    plain = tuple(option.item() if hasattr(option, "item") else option for option in options)
    return Choice(name=name, role=spec.role, live=spec.live, options=plain)


def _number(name: str, domain: Any, spec: Spec) -> Float | Integer:
    sampler = domain.get_sampler()
    step = getattr(sampler, "q", None)
    if step is not None:
        sampler = sampler.get_sampler()
        if not step > 0:
            raise _domain_error(name, f"step {step!r}", "it must be greater than 0")
    scale = str(sampler)
    lower, upper = domain.lower, domain.upper
    if scale == "Normal":
        raise _domain_error(name, "tune.randn", "it has no bounds: write tune.uniform(lower, upper) or tune.loguniform")
    if scale not in ("Uniform", "LogUniform"):
        raise _domain_error(name, f"a domain sampled by {scale}", "write tune.uniform, loguniform, randint or choice")
    for bound in (lower, upper):
        if not isinstance(bound, int | float) or not math.isfinite(bound):
            raise _domain_error(name, f"bound {bound!r}", "it must be a finite number")
    if not lower < upper:
        raise _domain_error(name, f"range {lower} to {upper}", "the lower bound must be smaller than the upper one")

    integer = isinstance(domain.cast(lower), int)
    log = scale == "LogUniform"
    if integer and step in (None, 1):
        # Tune excludes the upper bound of integers, unless they are on a grid.
        if int(upper) - 1 <= int(lower):
            raise _domain_error(
                name, f"integer range {lower} to {upper}", f"it has one value ({upper} is left out by Tune)"
            )
        return Integer(name=name, role=spec.role, live=spec.live, lower=int(lower), upper=int(upper) - 1, log=log)
    if step is not None:
        lower, upper = _grid_bounds(lower, upper, step)
        if not lower < upper:
            raise _domain_error(name, f"step {step}", f"{domain.lower} to {domain.upper} must hold two multiples of it")
        if integer:
            return Integer(
                name=name, role=spec.role, live=spec.live, lower=int(lower), upper=int(upper), log=log, step=int(step)
            )
    return Float(name=name, role=spec.role, live=spec.live, lower=float(lower), upper=float(upper), log=log, step=step)


def _grid_bounds(lower: float, upper: float, step: float) -> tuple[float, float]:
    """The outermost multiples of ``step`` inside the range: Tune's grids are multiples of ``q``."""

    def multiple(bound: float, rounding: Any) -> float:
        scaled = bound / step
        nearest = round(scaled)
        # 0.3 / 0.1 is 2.9999999999999996, but should count as 3.
        count = nearest if math.isclose(scaled, nearest) else rounding(scaled)
        return float(f"{count * step:.12g}")

    return multiple(lower, math.ceil), multiple(upper, math.floor)


def _domain_error(name: str, what: str, instead: str) -> ValueError:
    return ValueError(f"hyperparameter '{name}': {what} does not work here, {instead}")
