"""What the command lines share: parsers, exit statuses, loading the user's experiment file, and ``--set``."""
