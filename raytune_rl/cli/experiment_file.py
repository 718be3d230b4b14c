"""Finds the ``Experiment`` in a user's file, and reports the user's mistakes as such."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType

from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.tracking.checks import missing_library

_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")})
"""Folders of the standard library and of installed packages."""


def load_experiment(file: str | os.PathLike[str], name: str | None = None) -> Experiment:
    """The module-level ``Experiment`` of a Python file; ``name`` chooses among several.

    An experiment without a name is named after the file. As for a script, modules in the file's folder can be imported,
    both by the file and by the workers of a local Ray.

    Raises:
        BadInput: the file is missing, fails to import, or does not have exactly one experiment (of that name). The
            message of a failed import has a traceback of the user's code.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise BadInput(f"there is no experiment file {os.fspath(file)!r}; give the path of a Python file.")
    module = _import(path)
    experiments = {key: value for key, value in vars(module).items() if isinstance(value, Experiment)}
    if name is not None:
        if name not in experiments:
            known = ", ".join(experiments) or "none"
            raise BadInput(f"--experiment {name}: {path.name} has no Experiment of that name; it holds {known}.")
        experiment = experiments[name]
    elif len({id(value) for value in experiments.values()}) != 1:
        if not experiments:
            raise BadInput(f"{path.name} defines no Experiment; write `experiment = Experiment(...)` at module level.")
        raise BadInput(
            f"{path.name} defines several experiments ({', '.join(experiments)}); choose one with --experiment NAME."
        )
    else:
        experiment = next(iter(experiments.values()))
    if not experiment.name:
        object.__setattr__(experiment, "name", path.stem)
    return experiment


def _import(path: Path) -> ModuleType:
    _make_importable(path.parent)
    module_name = path.stem if path.stem.isidentifier() else "experiment_file"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path.name} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BadInput as error:
        raise BadInput(f"{path.name}, line {_user_line(error, path)}: {error}") from None
    except SystemExit as error:
        raise BadInput(
            f"{path.name} calls exit({error.code!r}) when it is imported; it must only define things."
        ) from None
    except Exception as error:
        reason = missing_library(error) or f"{type(error).__name__}: {error}"
        raise BadInput(f"{user_traceback(error, path)}\n{path.name} cannot be imported: {reason}") from None
    return module


def _make_importable(folder: Path) -> None:
    text = str(folder)
    if text not in sys.path:
        sys.path.insert(0, text)
    inherited = os.environ.get("PYTHONPATH", "")
    if text not in inherited.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [text, inherited]))


def user_traceback(error: BaseException, path: Path) -> str:
    """The traceback reduced to frames in the user's code: without those before it, and without those in libraries."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return "".join(traceback.format_exception_only(error)).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    start = next((i for i, frame in enumerate(frames) if frame.filename == str(path)), len(frames))
    users_frames = [frame for frame in frames[start:] if not frame.filename.startswith(_LIBRARIES)]
    return "Traceback (most recent call last):\n" + "".join(traceback.format_list(users_frames)).rstrip()


def _user_line(error: BaseException, path: Path) -> int:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (lines[-1] if lines else None) or 0
