"""Checkpoints out and in, in every format that people keep Stable Diffusion 1.x models in."""
