"""Submitting an experiment file to a cluster: ``python -m raytune_rl.submit exp.py --to ray-job|slurm|kuberay``.

Whatever the launcher, what runs there is ``python -m raytune_rl.run``, so a submitted run leaves the same run directory
as one at home. To add a launcher: one class with ``preview`` and ``submit`` (see ``job.Launcher``).
"""

from raytune_rl.submit.job import Job, Launcher

__all__ = ["Job", "Launcher"]
