"""Comparisons with the reference: each module NAME has a `run`, whose rows `python -m benchmarks NAME` writes."""

import riffusion_train  # noqa: F401  (makes torchaudio importable on every build of torch)
