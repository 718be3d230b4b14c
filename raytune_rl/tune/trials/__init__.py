"""One member per trial: Tune runs the user's own Trainables, as under any scheduler of Ray's."""
