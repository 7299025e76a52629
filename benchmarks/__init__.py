"""What `eokit bench` runs: a registry, one file a benchmark, and what they share; installed as `eokit_bench`."""
