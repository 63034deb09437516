"""Side-by-side measurements: each module NAME has `run(quick)`, whose rows `python -m benchmarks NAME` writes."""

import riffusion_train  # noqa: F401  (makes torchaudio importable on every build of torch)
