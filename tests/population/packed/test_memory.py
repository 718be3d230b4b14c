"""A process keeps what it frees."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from raytune_rl.population.packed.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
torch.set_num_threads(1)
def use():
    held = [torch.zeros(2**18) for _ in range(40)]  # a MiB each, all freed together
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_freed_memory_is_used_again() -> None:
    def faults(keep: bool) -> int:
        found = subprocess.run(
            [sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True
        )
        return int(found.stdout)

    assert faults(True) < faults(False) / 2  # mostly a hundredth; huge pages and fragments of the heap make it vary
