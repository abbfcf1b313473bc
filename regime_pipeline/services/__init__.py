"""Use-cases, one per file: each takes its ports as arguments and runs in the caller's transaction."""
