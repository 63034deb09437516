"""Benchmarks that need a GPU; each also runs on a CPU with a tiny model, so that tests can cover it."""
