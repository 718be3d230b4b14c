"""How the C library handles memory that the process has freed."""

from __future__ import annotations

import ctypes
import functools
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
TRIM_THRESHOLD = 2**28
"""Bytes: so much free memory at the end of the heap is kept instead of returned to the system."""
MMAP_THRESHOLD = 2**25
"""Bytes: tensors up to this size are allocated on the heap; glibc allows no larger threshold."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep what this process frees, up to ``TRIM_THRESHOLD``, from now on. Whether that worked.

    A packed program allocates the same large tensors in every step. By default glibc returns each of them to the system
    when it is freed, and every step begins with thousands of page faults, which are slowest on virtual machines. C
    libraries other than glibc are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD))
