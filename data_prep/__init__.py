"""From a folder of captioned audio to a dataset folder: find, decode, clean, cut, encode, write."""

import riffusion_train.torchaudio_guard  # noqa: F401  (the package lets torchaudio be imported on every build of torch)
