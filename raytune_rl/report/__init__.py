"""``python -m raytune_rl.report DIR [DIR ...]``: the command line of ``raytune_rl.analysis.page``."""
