"""Ensembles of a run's members: chosen on validation, kept as one torch module that loads without Ray.

Importing this package is light: torch comes in with what builds, loads or exports.
"""

from raytune_rl.ensemble.settings import Ensemble

__all__ = ["Ensemble"]
