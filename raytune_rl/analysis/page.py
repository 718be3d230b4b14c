"""``report.html``: a self-contained page about a run, or a comparison of several.

``raytune_rl.report`` is only its command line. The page itself is made here because a run writes it at its end, and
runs may not import the command line. The page runs no script and loads nothing, which its content security policy
enforces; all texts from users are escaped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from raytune_rl._version import __version__
from raytune_rl.analysis import captions, sections
from raytune_rl.analysis.compare import compare, labels
from raytune_rl.analysis.run import Run
from raytune_rl.analysis.verdict import verdict, verdict_on
from raytune_rl.rundir.layout import REPORT, RunDirectory

logger = logging.getLogger(__name__)


def page(runs: Run | Sequence[Run]) -> str:
    """The HTML of one run, or of several compared.

    Raises:
        BadInput: no runs, or runs with different metrics.
    """
    shown = [runs] if isinstance(runs, Run) else list(runs)
    return _page_of_run(shown[0]) if len(shown) == 1 else _page_of_runs(shown)


def write_report(directory: str | os.PathLike[str] | RunDirectory) -> str:
    """Write ``report.html`` into a run directory, also while the run is in progress. Returns its path or URI.

    Raises:
        FileNotFoundError: the directory holds no run.
        SchemaError: the run was written by a newer version, or is damaged.
        OSError: the directory cannot be written.
    """
    run_directory = directory if isinstance(directory, RunDirectory) else RunDirectory(directory)
    run_directory.write_bytes(REPORT, page(Run.load(run_directory)).encode())
    return run_directory.uri(REPORT)


def try_report(directory: str | os.PathLike[str] | RunDirectory) -> str | None:
    """``write_report`` for the end of a run, which must not fail because of its report: any error becomes a warning in
    the log, and ``None`` is returned."""
    try:
        return write_report(directory)
    except Exception as error:
        logger.warning(
            "the report could not be written (%s: %s); python -m raytune_rl.report %s tries again",
            type(error).__name__,
            error,
            directory,
        )
        logger.debug("the report's traceback", exc_info=True)
        return None


def _page_of_run(run: Run) -> str:
    return _template("run.html.j2").render(
        title=run.name,
        version=__version__,
        verdict=verdict(run),
        state="finished" if run.finished else "not finished",
        facts=sections.facts(run),
        results=sections.results(run),
        floor=captions.floor(run),
        figures=sections.figures(run),
        copies=sections.copies(run),
        schedules=sections.schedules(run),
        path=sections.path(run),
        schedule=sections.schedule_link(run),
        members=sections.members(run),
        space=sections.space(run),
        configuration=sections.configuration(run),
        directory=run.directory,
    )


def _page_of_runs(runs: Sequence[Run]) -> str:
    table = compare(runs)
    order = [labels(runs).index(label) for label in table.index]
    ordered = [runs[index] for index in order]  # the best first, in tables and figures
    return _template("runs.html.j2").render(
        title=f"{len(ordered)} runs compared",
        version=__version__,
        verdict=verdict_on(ordered),
        results=sections.compared(table, ordered[0].metric),
        figures=sections.compared_figures(ordered),
        schedules=sections.compared_schedules(ordered),
        configuration=sections.differences(ordered),
    )


@lru_cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("raytune_rl", "analysis/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
