"""Several members per trial: Tune runs actors of ours, which host the members and never pause."""
