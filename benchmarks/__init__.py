"""How fast we are, in ratios to peers that do the same work in the same run: `python -m benchmarks`, or `make bench`."""
