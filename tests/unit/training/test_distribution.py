"""Sharded networks in one process: what is cut up, that it computes the same, and that it comes back whole."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.models import nano_components, predict
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from riffusion_train.model.components import freeze, unfreeze
from riffusion_train.training.distribution import Distribution, as_sharded, gather, like_weight, shard_components, whole
from riffusion_train.training.method import unfreeze_vae
from riffusion_train.training.objective import VaeObjective

CPU = torch.device("cpu")
ALONE = Distribution(SimpleNamespace(device=CPU, num_processes=1, is_main_process=True))


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(params=[0, 1, 2])
def rank_of_three(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process that believes to be one of three; what it would receive is never there."""
    dist.init_process_group("fake", store=FakeStore(), rank=request.param, world_size=3)
    yield request.param
    dist.destroy_process_group()


def kinds(network: nn.Module) -> set[bool]:
    return {isinstance(weight, DTensor) for weight in network.parameters()}


@pytest.mark.usefixtures("one_process")
def test_trained_networks_are_cut_up_and_frozen_ones_stay_whole() -> None:
    components = nano_components()
    freeze(components)
    unfreeze(components.unet)
    before = predict(components.unet)
    shard_components(components, CPU, 1)
    assert kinds(components.unet) == {True}
    assert kinds(components.text_encoder) == kinds(components.vae) == {False}
    assert torch.allclose(predict(components.unet), before, atol=1e-6)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("encoder", [False, True])
def test_a_vae_that_is_cut_up_has_the_same_loss_and_gradients(encoder: bool) -> None:
    components = nano_components()
    freeze(components)
    unfreeze_vae(components.vae, encoder=encoder)
    plain = copy.deepcopy(components.vae)
    shard_components(components, CPU, 1)
    assert kinds(components.vae.decoder) == {True}
    assert kinds(components.vae.encoder) == {encoder}
    batch = {"pixels": torch.rand(2, 3, 32, 32) * 2 - 1, "latent_noise": torch.randn(2, 4, 8, 8)}
    losses = []
    for vae in (plain, components.vae):
        loss = VaeObjective(vae, kl_weight=1e-6, train_encoder=encoder)(batch)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for weight, cut in zip(plain.parameters(), components.vae.parameters(), strict=True):
        assert (weight.grad is None) == (cut.grad is None)
        if weight.grad is not None and cut.grad is not None:
            assert torch.allclose(weight.grad, whole(cut.grad), atol=1e-5)


@pytest.mark.usefixtures("one_process")
def test_a_model_that_was_cut_up_comes_back_as_a_plain_copy() -> None:
    components = nano_components()
    freeze(components)
    unfreeze(components.unet)
    unfreeze(components.text_encoder)
    before = {name: copy.deepcopy(network.state_dict()) for name, network in components.modules.items()}
    shard_components(components, CPU, 1)
    found = ALONE.whole_model(components)
    assert found.vae is components.vae
    assert found.spectrogram == components.spectrogram
    for name, network in found.modules.items():
        assert kinds(network) == {False}
        assert network.state_dict().keys() == before[name].keys()
        assert all(tensor.equal(before[name][key]) for key, tensor in network.state_dict().items())
    ALONE.local_parameters(components.unet.parameters())[0].data.zero_()
    assert next(found.unet.parameters()).any()


def test_a_model_that_is_whole_is_returned_itself() -> None:
    components = nano_components()
    assert ALONE.whole_model(components) is components


@pytest.mark.usefixtures("one_process")
def test_local_parameters_share_memory_with_the_weights_and_say_that_they_are_trained() -> None:
    mesh = init_device_mesh("cpu", (1,))
    weight = nn.Parameter(distribute_tensor(torch.ones(3, 2), mesh, [Shard(0)]))
    part = ALONE.local_parameters([weight])[0]
    part.data.fill_(5.0)
    assert part.requires_grad  # diffusers' EMA copies what does not, instead of averaging it
    assert gather({"w": weight}, keep=True)["w"].eq(5.0).all()
    assert as_sharded([part], [weight])[0].equal(weight)
    assert gather({"w": weight}, keep=False) == {}


@pytest.mark.parametrize("rows", [2, 4, 7])
def test_a_weight_is_cut_up_as_torch_cuts_it_with_fewer_rows_than_ranks_too(rank_of_three: int, rows: int) -> None:
    mesh: Any = init_device_mesh("cpu", (3,))
    tensor = torch.arange(rows * 2.0).reshape(rows, 2)
    weight = nn.Parameter(distribute_tensor(torch.zeros(rows, 2), mesh, [Shard(0)], src_data_rank=None))
    expected = distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)
    found = like_weight(tensor, weight)
    assert isinstance(found, DTensor)
    assert found.to_local().equal(expected.to_local())
    assert found.shape == (rows, 2)
