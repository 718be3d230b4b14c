"""``--set field=value``: changes scalar fields of a frozen experiment, given by dotted paths, parsed by annotation."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from raytune_rl.errors import BadInput

T = TypeVar("T")
_SCALARS = (bool, int, float, str)
_NAMES: dict[Any, str] = {bool: "true or false"}


def settable(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted paths of all scalar fields of a dataclass and of the dataclasses inside it, with their annotations."""
    for name, annotation in _annotations(value).items():
        if _options(annotation):
            yield prefix + name, annotation
        inner = getattr(value, name)
        if is_dataclass(inner) and not isinstance(inner, type):
            yield from settable(inner, f"{prefix}{name}.")


def apply_overrides(value: T, assignments: Sequence[str]) -> T:
    """``value`` with ``["a.b=1", ...]`` applied, each parsed by the annotation of its field.

    Raises:
        BadInput: there is no such field, or its annotation does not allow this text.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        annotations = dict(settable(value))
        if not equals or path not in annotations:
            problem = (
                f"--set {assignment!r}: there is no field {path!r}" if equals else f"--set {assignment!r} has no '='"
            )
            raise BadInput(f"{problem}; what can be set: {', '.join(annotations)}.")
        value = _with_field(value, path.split("."), _parse(path, text, annotations[path]))
    return value


def _annotations(value: Any) -> dict[str, Any]:
    try:
        hints = get_type_hints(type(value))
    except (NameError, TypeError):  # a user's own dataclass with annotations that cannot be resolved here
        return {}
    return {f.name: hints[f.name] for f in fields(value) if f.init and not f.name.startswith("_")}


def _options(annotation: Any) -> list[Any]:
    """The scalar types, literals and None that an annotation allows; empty if text cannot express its values."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    if origin is Literal:
        return list(get_args(annotation))
    if isinstance(annotation, typing.TypeAliasType) if hasattr(typing, "TypeAliasType") else False:
        return _options(annotation.__value__)
    if annotation in (None, type(None)):
        return [None]
    return [annotation] if annotation in _SCALARS else []


def _parse(path: str, text: str, annotation: Any) -> Any:
    options = _options(annotation)
    for option in options:
        if option is None and text.lower() in ("none", ""):
            return None
        if isinstance(option, str) and text == option:
            return option
        if option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
    if str in options:
        return text
    expected = " or ".join(_NAMES.get(o) or (o.__name__ if isinstance(o, type) else repr(o)) for o in options)
    raise BadInput(f"--set {path}={text}: {text!r} is not a value for {path}; it takes {expected}.")


def _with_field(value: Any, path: Sequence[str], new: Any) -> Any:
    """``value`` with the field at ``path``, perhaps in a dataclass inside it, replaced by ``new``."""
    head, *rest = path
    return replace(value, **{head: _with_field(getattr(value, head), rest, new) if rest else new})
