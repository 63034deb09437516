"""LoRA files as faders: adapters that are computed beside the layers they adapt, each with a strength that may change."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.model.components import Components
from riffusion_train.model.diffusers_folder import dataset_of
from riffusion_train.model.loading import open_model, recommended_by_lora, split_lora, summary_of
from riffusion_train.model.lora import Lora, LoraLayer, read_lora
from riffusion_train.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class NamedLora:
    """A LoRA and its fader.

    Attributes:
        name: What listeners know it by: its file without folder and suffix.
        scale: Its strength where no fader says another one.
        lora: Its adapters.
    """

    name: str
    scale: float
    lora: Lora


class LoraFaders:
    """Adapters (Hu et al. 2021, arXiv:2106.09685) that are not merged, so that their strengths can change between two clips.

    The output of an adapted layer gets `strength * alpha / rank * up(down(x))` added; one of strength 0 costs nothing. Of a
    DoRA, whose rows are rescaled to magnitudes of their own, the adapted weight is computed once for each strength.

    Args:
        components: The model; its layers get hooks.
        loras: The LoRAs.
    """

    def __init__(self, components: Components, loras: Sequence[NamedLora]) -> None:
        self.loras = tuple(loras)
        self._scales = {one.name: 0.0 for one in loras}
        self._adapts_text = any(name.startswith("text_encoder.") for one in loras for name in one.lora.layers)
        self.set({})
        layers: dict[str, list[tuple[str, LoraLayer]]] = {}
        for one in loras:
            for name, layer in one.lora.layers.items():
                layers.setdefault(name, []).append((one.name, layer))
        for name, adapters in layers.items():
            part, _, rest = name.partition(".")
            module = components.modules[part].get_submodule(rest)
            module.register_forward_hook(_Adapters(self._scales, adapters, module))

    @property
    def datasets(self) -> list[str]:
        """The fingerprints of the datasets that the LoRAs were trained on, of those that say so."""
        named = [dataset_of(summary_of(one.lora)) for one in self.loras]
        return [one for one in named if one is not None]

    def set(self, scales: Mapping[str, float]) -> bool:
        """Set the strengths; a LoRA that is not named gets its own one.

        Returns:
            Whether the text encoder computes something else now.
        """
        chosen = {one.name: float(scales.get(one.name, one.scale)) for one in self.loras}
        changed = chosen != self._scales
        self._scales.update(chosen)
        return changed and self._adapts_text

    def check(self, names: Sequence[str]) -> None:
        """Check that there are LoRAs of these names.

        Raises:
            InputError: If one is missing.
        """
        known = [one.name for one in self.loras]
        for name in names:
            if name not in known:
                raise InputError(f"loras: the player has no LoRA '{name[:80]}'; choose from: {', '.join(known)}")


class _Adapters:
    """What a hook adds to the output of one layer.

    Args:
        scales: The strengths by name, which change.
        adapters: Name and adapter of each LoRA that adapts the layer.
        module: The layer.
    """

    def __init__(self, scales: Mapping[str, float], adapters: Sequence[tuple[str, LoraLayer]], module: Any) -> None:
        self._scales = scales
        self._adapters = [(name, _on(layer, module.weight)) for name, layer in adapters]
        self._adapted: tuple[tuple[float, ...], Tensor] | None = None

    def __call__(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        scales = tuple(self._scales[name] for name, _ in self._adapters)
        if not any(scales):
            return output
        if any(layer.magnitude is not None for _, layer in self._adapters):
            return self._run(module, inputs[0], self._weight(module, scales), module.bias)
        for scale, (_, layer) in zip(scales, self._adapters, strict=True):
            if scale:
                down = self._run(module, inputs[0], layer.down, None)
                up = F.linear(down, layer.up) if isinstance(module, nn.Linear) else F.conv2d(down, layer.up)
                output = output + (scale * layer.alpha / layer.rank) * up
        return output

    def _weight(self, module: Any, scales: tuple[float, ...]) -> Tensor:
        """Return the weight of the layer with its adapters merged into it one after the other."""
        if self._adapted is None or self._adapted[0] != scales:
            weight = module.weight
            for scale, (_, layer) in zip(scales, self._adapters, strict=True):
                weight = layer.adapted(weight, scale) if scale else weight
            self._adapted = scales, weight.to(module.weight.dtype)
        return self._adapted[1]

    def _run(self, module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Run the layer with another weight; a convolution along a ring pads as the layer does."""
        if isinstance(module, nn.Linear):
            return F.linear(x, weight, bias)
        convolved: Tensor = module._conv_forward(x, weight, bias)
        return convolved


def _on(layer: LoraLayer, weight: Tensor) -> LoraLayer:
    """Return an adapter on the device and in the dtype of a weight."""
    magnitude = None if layer.magnitude is None else layer.magnitude.to(weight)
    return dataclasses.replace(layer, down=layer.down.to(weight), up=layer.up.to(weight), magnitude=magnitude)


def load_faders(components: Components, texts: Sequence[str]) -> LoraFaders | None:
    """Load LoRA files as faders; None where there are none.

    Args:
        components: The model they are for.
        texts: `FILE` or `FILE:STRENGTH` each.

    Raises:
        InputError: If a file cannot be used.
    """
    loras: list[NamedLora] = []
    for text in texts:
        path, scale = split_lora(text)
        lora = _read(path, components.modules, components.source)
        loras.append(NamedLora(_free_name(path, [one.name for one in loras]), scale, lora))
    return LoraFaders(components, loras) if loras else None


def distilled_among(model: str, texts: Sequence[str]) -> list[str]:
    """Return the LoRAs that say how the model is sampled with them: distilled ones, which are merged and are no faders.

    Args:
        model: The model they are for.
        texts: `FILE` or `FILE:STRENGTH` each.

    Raises:
        InputError: If a file cannot be used.
    """
    modules: Mapping[str, nn.Module] = open_model(model).skeleton.modules if texts else {}
    return [text for text in texts if recommended_by_lora(_read(split_lora(text)[0], modules, model))]


def _read(path: Path, modules: Mapping[str, nn.Module], where: str) -> Lora:
    if not path.exists():
        raise InputError(f"--lora {path}: no such file")
    return read_lora(path, modules, where)


def _free_name(path: Path, taken: Sequence[str]) -> str:
    name = path.stem if path.is_file() else path.name
    return next(one for one in (name, *(f"{name}-{count}" for count in range(2, 99))) if one not in taken)
