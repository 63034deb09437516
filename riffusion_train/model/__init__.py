"""Stable Diffusion 1.5: building, opening, adapting and writing it."""
