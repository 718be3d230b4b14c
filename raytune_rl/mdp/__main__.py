"""Prints the table of observation features and actions: ``python -m raytune_rl.mdp``."""

from raytune_rl.mdp.features import table

if __name__ == "__main__":
    print(table())
