"""Packed populations: K members of one architecture trained as one batched program.

The parameters of all members are stacked. Gradients are computed by hand-written batched layers (``stack``) where all
layers of a network are known, and by ``torch.func`` otherwise. The optimiser works on one matrix of shape (K, P). So a
step costs a handful of kernels, whatever K is. Training one small model after the other is bound by the overhead of the
calls; training them packed is many times as fast.
"""

from raytune_rl.population.packed.population import PackedPopulation

__all__ = ["PackedPopulation"]
