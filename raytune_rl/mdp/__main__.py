"""``python -m raytune_rl.mdp`` prints the table of features and actions that README and docs show."""

from raytune_rl.mdp.features import table

if __name__ == "__main__":
    print(table())
