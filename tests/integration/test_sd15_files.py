import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ldm_keys import NUM_CLIP, NUM_UNET, NUM_VAE, sd15_keys

MOST_GIB = 8
MOST_CPU_SECONDS = 180


@pytest.mark.slow
def test_stable_diffusion_at_its_true_size_streams_to_a_single_file_and_back(tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "support" / "real_size.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, program, tmp_path], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    expected = sorted(key for keys in sd15_keys().values() for key in keys)
    assert len(expected) == NUM_UNET + NUM_VAE + NUM_CLIP == 1131
    assert figures["keys"] == expected
    assert figures["identical"] == [True, True, True]
    assert figures["peak_gib"] < MOST_GIB
    assert figures["cpu_seconds"] < MOST_CPU_SECONDS
