import sys
from pathlib import Path

import hypothesis
import pytest

import riffusion_train  # noqa: F401  (lets torchaudio be imported on every build of torch)

sys.path.insert(0, str(Path(__file__).parent))

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Repeat what follows the clock, twice at most: an audio device does not wait for a machine that is busy for a moment."""
    for item in items:
        if item.get_closest_marker("real_time"):
            item.add_marker(pytest.mark.flaky(reruns=2))
