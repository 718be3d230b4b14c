"""Ray Tune's side: trials that host members, and the schedulers that carry reports and decisions between Tune and us."""
