"""From a folder of captioned audio to a dataset folder: find, decode, clean, cut, encode, write."""

import riffusion_train  # noqa: F401  (registers the torchaudio stand-in before anything else imports torchaudio)
