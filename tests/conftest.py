import sys
from pathlib import Path

import riffusion_train  # noqa: F401  (registers the torchaudio stand-in before any test imports torchaudio)

sys.path.insert(0, str(Path(__file__).parent))
