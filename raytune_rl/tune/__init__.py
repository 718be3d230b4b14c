"""Ray Tune's side: trials that train the members, and schedulers that carry reports and decisions to and fro.

``hosts``: several members per trial, in an actor of ours (torch tasks, class Trainables of an ``Experiment``).
``trials``: one member per trial, in the user's own Trainable (``MetaAgentScheduler``, functions). What both use is in
this directory.
"""
