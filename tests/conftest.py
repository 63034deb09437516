import sys
from pathlib import Path

import hypothesis

import riffusion_train  # noqa: F401  (lets torchaudio be imported on every build of torch)

sys.path.insert(0, str(Path(__file__).parent))

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("no deadline")
