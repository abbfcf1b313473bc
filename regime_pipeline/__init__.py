"""Crypto regime pipeline: from market bars to trend states, regime deltas and portfolio levers, kept in Postgres."""
