"""The run directory: the files that a run writes, and how to read them."""

from raytune_rl.rundir.environment import describe_environment, describe_experiment
from raytune_rl.rundir.layout import (
    AGENT,
    BEST,
    DECISIONS,
    ENSEMBLE,
    EXPERIMENT,
    LOG,
    REPORT,
    SEGMENTS,
    STATE,
    SUMMARY,
    RunDirectory,
    SchemaError,
)
from raytune_rl.rundir.log import RunLog
from raytune_rl.rundir.schemas import column_types
from raytune_rl.rundir.summary import AgentSummary, Comparison, Counters, best_of, build_summary, comparison_of
from raytune_rl.rundir.tables import TableWriter

__all__ = [
    "AGENT",
    "BEST",
    "DECISIONS",
    "ENSEMBLE",
    "EXPERIMENT",
    "LOG",
    "REPORT",
    "SEGMENTS",
    "STATE",
    "SUMMARY",
    "AgentSummary",
    "Comparison",
    "Counters",
    "RunDirectory",
    "RunLog",
    "SchemaError",
    "TableWriter",
    "best_of",
    "build_summary",
    "column_types",
    "comparison_of",
    "describe_environment",
    "describe_experiment",
]
