"""Example models and data, one file each. Nothing is downloaded and nothing cached on disk."""
