"""A run, from the experiment to the run directory: build the parts, train, refit, compare, summarise, and resume."""
