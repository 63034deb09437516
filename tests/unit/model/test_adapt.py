import pytest
from support.models import nano_components

from riffusion_train.model.lora import add_lora
from riffusion_train.runtime.errors import InputError


def test_an_unknown_layer_name_is_refused() -> None:
    with pytest.raises(InputError, match="no linear layer named to_nowhere"):
        add_lora(nano_components().unet, rank=4, alpha=4, target_modules=["to_nowhere"])
