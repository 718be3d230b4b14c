"""What the command lines share: manners and exit statuses, the user's experiment file, and ``--set``."""
