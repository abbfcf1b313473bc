"""Market data as values: timeframes, bars and their validity, rollups, composites, dominance, buckets, the universe file."""
