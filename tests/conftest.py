import sys
from pathlib import Path

import riffusion_train  # noqa: F401  (lets torchaudio be imported on every build of torch)

sys.path.insert(0, str(Path(__file__).parent))
