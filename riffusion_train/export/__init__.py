"""Checkpoints out, in formats that others read."""
