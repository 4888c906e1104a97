"""Where a run's numbers can go besides metrics.jsonl: one file a service, imported only where it is asked for."""
