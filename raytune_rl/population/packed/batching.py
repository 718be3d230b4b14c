"""Operators that ``vmap`` cannot batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_functorch: Any = torch._C._functorch


@contextmanager
def batching_rules_only() -> Iterator[None]:
    """Operators without a batching rule raise inside. ``vmap`` would go through their examples one by one, which is
    slower than the members one by one. (Torch has no public switch for it.)"""
    before = _functorch._is_vmap_fallback_enabled()
    _functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        _functorch._set_vmap_fallback_enabled(before)
