import subprocess
import sys

import numpy as np
import pytest

import riffusion_train
from riffusion_train import Sampler, SpectrogramCodec, load_dataset, load_model


def in_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_are_imported_at_once_and_without_torch() -> None:
    code = (
        "import sys, time; start = time.process_time()\n"
        "from riffusion_train import Sampler, SpectrogramCodec, load_dataset, load_model\n"
        "duration_s = time.process_time() - start\n"
        "def play(sampler: Sampler | None, codec: 'SpectrogramCodec') -> None: ...\n"
        "assert not isinstance(1, Sampler)\n"
        "assert not {'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "print(duration_s)"
    )
    assert any(float(in_new_process(code)) < 0.2 for _ in range(3))


def test_a_public_name_is_the_class_itself_once_it_is_used() -> None:
    code = (
        "from riffusion_train import SpectrogramCodec\n"
        "codec = SpectrogramCodec.from_preset('tiny')\n"
        "from riffusion_train.audio.codec import SpectrogramCodec as Real\n"
        "assert isinstance(codec, SpectrogramCodec) and isinstance(codec, Real)\n"
        "assert issubclass(Real, SpectrogramCodec) and not isinstance(1, SpectrogramCodec)\n"
        "assert isinstance(SpectrogramCodec(codec.config), Real)\n"
        "class Mine(SpectrogramCodec): ...\n"
        "assert issubclass(Mine, Real)\n"
        "import riffusion_train, inspect\n"
        "assert riffusion_train.SpectrogramCodec is Real\n"
        "assert 'config' in inspect.signature(SpectrogramCodec).parameters\n"
    )
    in_new_process(code)


def test_every_public_name_can_be_used() -> None:
    assert set(riffusion_train.__all__) <= set(dir(riffusion_train))
    assert callable(Sampler.load)
    with pytest.raises(riffusion_train.InputError, match="no such dataset folder"):
        load_dataset("nowhere")
    with pytest.raises(riffusion_train.InputError, match="no such file or folder"):
        load_model("nowhere/at/all")
    assert SpectrogramCodec.from_preset("tiny").encode(np.zeros((1, 100), np.float32)).image.shape == (64, 64)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Samplr'"):
        _ = riffusion_train.Samplr
