"""Packed populations: many members of one architecture trained as one batched program, on the CPU or a GPU.

Needs torch and numpy only.
"""

from raytune_rl.population.packed.population import Augment, Bank, PackedPopulation, additive_noise

__all__ = ["Augment", "Bank", "PackedPopulation", "additive_noise"]
