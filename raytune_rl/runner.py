"""Puts a run together: experiment in, run directory out.

``run`` is what the command line calls and what a notebook can call; everything it does lies in the parts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from raytune_rl.controller.controller import Controller
from raytune_rl.controller.policies import Fixed
from raytune_rl.controller.policy import Policy
from raytune_rl.embedded import ray_cluster
from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.population.candidate import Candidate
from raytune_rl.progress import Progress, make_progress
from raytune_rl.records import Value
from raytune_rl.rllib.settings import Agent
from raytune_rl.rundir import layout
from raytune_rl.rundir.environment import describe_experiment
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.plain import plain
from raytune_rl.rundir.schemas import column_types
from raytune_rl.rundir.tables import TableWriter
from raytune_rl.sink import RunSink
from raytune_rl.tune.storage import StateStore, refuse_foreign

logger = logging.getLogger(__name__)

RANDOM_SEARCH = "random_search"
"""Where the comparison run keeps its tables, inside the run directory."""
