"""A role function wraps a domain and says what it is for."""

import pytest

from raytune_rl.hyperparameters import ROLES, roles


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_function(role) -> None:
    function = roles.plain if role == "none" else getattr(roles, role)
    spec = function([1, 2])
    assert (spec.role, spec.domain) == (role, [1, 2])


def test_only_the_initialisation_is_set_once_unless_somebody_says_so() -> None:
    start_only = [role for role in ROLES if role != "none" and not getattr(roles, role)([1]).live]
    assert start_only == ["initialisation"]
    assert roles.initialisation([1], live=True).live
    assert not roles.learning_rate([1], live=False).live


def test_the_order_of_the_roles_is_what_trained_policies_know() -> None:
    assert ROLES == (
        "learning_rate",
        "weight_decay",
        "dropout",
        "momentum",
        "batch_size",
        "label_smoothing",
        "initialisation",
        "frozen_layers",
        "none",
    )
