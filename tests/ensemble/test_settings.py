import re
import subprocess
import sys

import pytest

from raytune_rl import BadInput, Ensemble
from raytune_rl.cli.overrides import apply_overrides
from raytune_rl.combining.aggregators import TopK


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("aggregator", "greedy"), ("aggregator", TopK), ("size", 0), ("snapshots", -1), ("latency", 0)],
        *[("latency", True), ("seconds", None), ("soups", "no"), ("calibrate", 1), ("kind", "ranking")],
    ],
)
def test_what_cannot_work_is_named(field: str, value: object) -> None:
    with pytest.raises(BadInput, match=re.escape(f"ensemble.{field} is {value!r}")):
        Ensemble(**{field: value})


def test_fields_can_be_set_from_the_command_line() -> None:
    changed = apply_overrides(Ensemble(aggregator=TopK(k=2)), ["size=3", "latency=0.5", "aggregator.k=5"])
    assert changed == Ensemble(aggregator=TopK(k=5), size=3, latency=0.5)


def test_it_imports_no_torch() -> None:
    code = "import sys, raytune_rl; raytune_rl.Ensemble(); assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
