"""Meta-training (``meta_train``): an RLlib agent learns in packed worlds how to steer real runs."""
