"""A role function wraps a domain and says what it is for."""

import pytest

from raytune_rl.hyperparameters import ROLES, SEEN_ROLES, roles
from raytune_rl.hyperparameters.roles import REGULARISATION, SEEN_AS, seen_as


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
    assert SEEN_ROLES == (
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


def test_a_role_that_they_do_not_know_is_shown_as_one_of_its_kind() -> None:
    assert (*SEEN_ROLES, *SEEN_AS) == ROLES
    for role in ROLES:
        assert seen_as(role) in SEEN_ROLES and seen_as(role) == SEEN_AS.get(role, role)
        assert (role in REGULARISATION) == (seen_as(role) in REGULARISATION), "else starting levels are seen elsewhere"
