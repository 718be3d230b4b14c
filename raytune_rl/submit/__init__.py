"""Submitting an experiment file to a cluster: ``python -m raytune_rl.submit exp.py --to ray-job|slurm|kuberay``.

Every launcher runs ``python -m raytune_rl.run`` on the cluster, so a submitted run has the same run directory as a
local one. A new launcher is a class with ``preview`` and ``submit`` (see ``job.Launcher``).
"""

from raytune_rl.submit.job import Job, Launcher

__all__ = ["Job", "Launcher"]
