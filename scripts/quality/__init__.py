"""What ``scripts/bench_quality`` is made of: methods, and the statistics over their results."""
