"""What a segment's losses say: trend and noise, and nothing where they cannot say it."""

from __future__ import annotations

import numpy as np

from raytune_rl.population.curves import curve_signals


def test_an_exponential_has_its_slope_and_no_noise() -> None:
    time = np.linspace(0.0, 1.0, 21)
    losses = np.stack([np.exp(-2.0 * time), np.full(21, 3.0)], axis=1)
    found = curve_signals(losses)
    np.testing.assert_allclose(found["loss_slope"], [-2.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(found["loss_noise"], [0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(found["train_loss"], losses.mean(axis=0))


def test_noise_is_relative_to_the_mean() -> None:
    losses = 1.0 + 0.1 * np.random.default_rng(0).standard_normal((4000, 1))
    assert abs(curve_signals(losses)["loss_noise"][0] - 0.1) < 0.01
    assert abs(curve_signals(50 * losses)["loss_noise"][0] - 0.1) < 0.01


def test_what_has_no_logarithm_has_neither() -> None:
    losses = np.array([[1.0, 0.0, np.nan, np.inf, 2.0], [0.5, 1.0, 1.0, 1.0, 1.0]])
    found = curve_signals(losses)
    assert np.isfinite(found["loss_slope"]).tolist() == [True, False, False, False, True]
    assert np.isfinite(found["loss_noise"]).tolist() == [True, False, False, False, True]
    assert np.isnan(curve_signals(losses[:1])["loss_slope"]).all()
