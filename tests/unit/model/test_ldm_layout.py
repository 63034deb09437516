import pytest
import torch
from support.ldm_keys import NUM_CLIP, NUM_UNET, NUM_VAE, sd15_keys

from riffusion_train.config.model import ModelConfig, ModelName
from riffusion_train.model.components import Components
from riffusion_train.model.loading import make_components
from riffusion_train.model.single_file import POSITION_IDS, ldm_names


@pytest.fixture(scope="module")
def sd15() -> Components:
    with torch.device("meta"):
        return make_components(ModelConfig(name=ModelName.random), seed=0)


def test_the_keys_are_exactly_those_of_the_original_code(sd15: Components) -> None:
    expected = sd15_keys()
    assert {part: len(keys) for part, keys in expected.items()} == {
        "unet": NUM_UNET,
        "vae": NUM_VAE,
        "text_encoder": NUM_CLIP,
    }
    for part, names in ldm_names(sd15.modules).items():
        ours = [ldm.key for ldm in names.values()] + ([POSITION_IDS] if part == "text_encoder" else [])
        assert len(ours) == len(set(ours))
        assert set(ours) == set(expected[part])


def test_the_converters_of_diffusers_lead_back_to_the_same_names(sd15: Components) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    names = ldm_names(sd15.modules)
    converters = {"unet": convert_ldm_unet_checkpoint, "vae": convert_ldm_vae_checkpoint}
    for part, convert in converters.items():
        weights = sd15.modules[part].state_dict()
        # Every tensor says which weight it is, so that two of the same shape cannot be mistaken for each other.
        marked = {ldm.key: torch.full((1, 1, 1), float(i)) for i, ldm in enumerate(names[part].values())}
        back = convert(dict(marked), dict(sd15.modules[part].config))
        assert set(back) == set(weights)
        assert [float(back[name].flatten()[0]) for name in weights] == [float(i) for i in range(len(weights))]
