"""Meta-training: an RLlib agent learns in packed worlds what it will need in real runs (``meta_train``)."""
