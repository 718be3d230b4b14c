"""Example tasks, a model and its data in one file each. Nothing is downloaded or cached on disk."""
