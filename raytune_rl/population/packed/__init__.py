"""Packed populations: K members of one architecture trained as one batched program.

Parameters are stacked, gradients come by hand (stacks of known layers) or by ``torch.func``, and the optimiser works on
one flat buffer of shape (K, P), so a step costs a handful of kernels whatever K is. For small models, which are bound
by the number of calls, that is many times as fast as training one after the other.
"""

from raytune_rl.population.packed.population import PackedPopulation

__all__ = ["PackedPopulation"]
