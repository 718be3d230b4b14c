"""One run, from an experiment to its run directory: make the parts, train, compare, sum up; interrupted, go on."""
