"""The mathematics of ensembles: what a combination of predictions is worth, and which members belong into it.

Numpy only, and no models: rewards need it during training (F2), building and export come later (``ensemble``).
"""
