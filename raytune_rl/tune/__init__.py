"""Ray Tune's side: trials that host members, and schedulers that carry reports and decisions to and fro."""
