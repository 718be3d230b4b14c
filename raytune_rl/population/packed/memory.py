"""What a process does with memory that it has freed."""

from __future__ import annotations

import ctypes
import functools
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT = 2**28
"""Bytes at the end of the heap that are not given back to the system."""
LARGEST = 2**25
"""Bytes up to which a tensor comes from the heap; glibc allows no more."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep what this process frees, up to ``KEPT``, from now on; whether it can.

    A packed program asks for the same large tensors in every step. glibc gives each of them back to the system when it
    is freed, and so every step begins with thousands of page faults, which a virtual machine feels most. Other C
    libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, KEPT))
