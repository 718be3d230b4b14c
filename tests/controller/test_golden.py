"""A recorded trace, replayed: reports in, and the same observations, decisions and rewards as on the day it was made.

Whatever drives members (real trials, packed populations, a replay) goes through this controller, so a change here
changes results everywhere. Where it is meant, make the trace again: ``python -m tests.controller.test_golden``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from raytune_rl.controller import PBT
from raytune_rl.records import Report
from tests.controller.worlds import Paper, make_controller

TRACE = Path(__file__).with_name("golden_trace.json")


def record() -> dict[str, Any]:
    """Reports of a run on paper, with a copy under way, a divergence and a rewound member, and what they led to."""
    paper = Paper(make_controller(PBT(), schedule="cosine"))
    steps = []
    for generation in range(5):
        changes: dict[int, Any] = {}
        if generation == 2:
            changes = {2: {"status": "diverged", "metrics": {"loss": float("nan")}}, 3: {"decision": 1}}
        step = paper.generation(changes)
        steps.append({"reports": [_plain(r) for r in step.reports], **_outcome(step)})
    return {"steps": steps}


def replay(trace: dict[str, Any]) -> list[dict[str, Any]]:
    controller = make_controller(PBT(), schedule="cosine")
    for member in range(4):
        controller.begin(member)
    return [_outcome(controller.step([Report(**report) for report in step["reports"]])) for step in trace["steps"]]


def _plain(report: Report) -> dict[str, Any]:
    names = ("member", "segment", "steps", "metrics", "hyperparameters", "decision", "seconds", "status")
    return {name: getattr(report, name) for name in names}


def _outcome(step: Any) -> dict[str, Any]:
    return {
        "rewards": list(step.rewards),
        "decisions": [
            {
                "member": d.member,
                "action": list(d.action),
                "source": [d.source.kind, d.source.member, d.source.name],
                "stop": d.stop,
                "hyperparameters": dict(d.hyperparameters),
                "observation": list(d.observation),
            }
            for d in step.decisions
        ],
    }


def test_the_trace_leads_to_the_same_decisions() -> None:
    trace = json.loads(TRACE.read_text())
    for step, outcome in zip(trace["steps"], replay(trace), strict=True):
        np.testing.assert_allclose(outcome["rewards"], step["rewards"], rtol=1e-9)
        for now, then in zip(outcome["decisions"], step["decisions"], strict=True):
            assert {k: now[k] for k in ("member", "action", "source", "stop")} == {
                k: then[k] for k in ("member", "action", "source", "stop")
            }
            assert now["hyperparameters"]["init"] == then["hyperparameters"]["init"]
            for name in ("lr", "dropout"):
                np.testing.assert_allclose(now["hyperparameters"][name], then["hyperparameters"][name], rtol=1e-9)
            np.testing.assert_allclose(now["observation"], then["observation"], rtol=1e-5, atol=1e-6)


def test_the_trace_is_worth_replaying() -> None:
    decisions = [d for step in json.loads(TRACE.read_text())["steps"] for d in step["decisions"]]
    assert {d["source"][0] for d in decisions} >= {"keep", "member", "checkpoint"}


if __name__ == "__main__":
    TRACE.write_text(json.dumps(record(), indent=1) + "\n")
