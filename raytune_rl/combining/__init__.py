"""The mathematics of ensembles: how good a combination of predictions is, and which members belong in it.

It uses numpy only and knows no models, because rewards need it during training. ``ensemble`` builds and exports models.
"""
