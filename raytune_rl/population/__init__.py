"""Members under training: the candidate protocol and the torch tasks that the package trains itself.

This file imports nothing, so that ``raytune_rl`` stays light; torch comes in with the first member that is built.
"""
