"""Benchmarks that need a GPU; each also runs end to end on a CPU with a tiny stand-in, so that it cannot rot."""
