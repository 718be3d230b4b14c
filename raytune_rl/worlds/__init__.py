"""Cheap worlds: whole populations trained as one batched program, by the same controller as real trials.

``cohort`` trains many members of a torch task, ``rollout`` lets controllers steer them, ``generator`` draws new tasks.
Nothing here imports Ray.
"""
