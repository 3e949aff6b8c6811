"""What restarts, lost replicas and a lost store cost: `python -m scripts.bench.continuity`."""
