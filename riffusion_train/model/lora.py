"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): on networks, in diffusers' and kohya's files, and merged."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from riffusion_train.config.spectrogram import SpectrogramConfig, load_spectrogram, to_data
from riffusion_train.dataset.order import normal
from riffusion_train.model.components import Components
from riffusion_train.model.detect import LORA_DIFFUSERS, LORA_KOHYA, LORA_PEFT, LORAS, PEFT_PREFIX, detect_file
from riffusion_train.model.single_file import METADATA_KEY, read_metadata_spectrogram
from riffusion_train.model.weights import (
    LazyModel,
    LazyTensor,
    check_weight,
    hash_tensors,
    in_memory,
    open_tensors,
    shortened,
    write_tensors,
)
from riffusion_train.runtime.errors import InputError

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Name of the file in a folder of adapters in diffusers' layout."""
PEFT_FILE = "adapter_model.safetensors"
"""Name of the file in a folder that peft wrote."""
PEFT_CONFIG_FILE = "adapter_config.json"
"""Its config, beside it; the strength of the adapters is only there."""
ADAPTER = "default"
"""Name of the adapters in peft's networks."""
_ADAPTER_METADATA_KEY = "lora_adapter_metadata"
_SUFFIXES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".dora_scale": "magnitude",
}
_LAYOUT_NAMES = {LORA_KOHYA: "kohya", LORA_DIFFUSERS: "diffusers", LORA_PEFT: "peft"}
_BASE_CHANGING_STARTS = ("pissa", "olora", "corda", "loftq")
"""Ways of peft to begin that also change the base's weights."""
_KOHYA_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}


@dataclasses.dataclass(frozen=True)
class LoraLayer:
    """The adapter of one layer: its weight is changed by `alpha / rank * up @ down`."""

    down: Tensor
    """(rank, in), or (rank, in, height, width) for a convolution."""
    up: Tensor
    """(out, rank), or (out, rank, 1, 1)."""
    alpha: float
    magnitude: Tensor | None = None
    """(out,): the norm of every row of the adapted weight, for a DoRA (Liu et al. 2024)."""

    @property
    def rank(self) -> int:
        """Width of the bottleneck."""
        return int(self.down.shape[0])

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of the weight it changes."""
        return (int(self.up.shape[0]), *(int(length) for length in self.down.shape[1:]))

    def change(self) -> Tensor:
        """Return what is added to the weight, in fp32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (self.alpha / self.rank) * product.reshape(self.size)

    def adapted(self, weight: Tensor, scale: float = 1.0) -> Tensor:
        """Return a weight with the adapter merged into it, in fp32; `scale` is the adapter's strength."""
        total = weight.float() + scale * self.change()  # W + s * (alpha / r) B A
        if self.magnitude is None:
            return total
        norms = total.flatten(1).norm(dim=1)  # (out,): DoRA rescales every row to its own magnitude
        return total * (self.magnitude.float().flatten() / norms).reshape(-1, *[1] * (total.dim() - 1))


@dataclasses.dataclass(frozen=True)
class Lora:
    """Adapters of a model, by the path of the layer: `unet.down_blocks.0…to_q`, `text_encoder.encoder.layers.0…q_proj`."""

    layers: dict[str, LoraLayer]
    spectrogram: SpectrogramConfig | None
    metadata: dict[str, str]
    layout: str
    """`diffusers`, `kohya` or `peft`: how the file was written."""
    source: str


def lora_files(path: Path) -> list[Path]:
    """Return the files of the adapters at a path: a file itself, or those in a folder of diffusers or peft; else none."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    if (path / LORA_FILE).is_file():
        return [path / LORA_FILE]
    places = [path / PEFT_FILE, *(path / part / PEFT_FILE for part in _KOHYA_PREFIXES)]
    files = [file for file in places if file.is_file()]
    if not files and not (path / "model_index.json").is_file():  # one file under its own name, as `export` writes it
        singles = sorted(path.glob("*.safetensors"))
        files = singles if len(singles) == 1 and _kind(open_tensors(singles[0])[0]) in LORAS else []
    return files


def read_lora(path: Path, modules: Mapping[str, nn.Module], where: str = "Stable Diffusion 1.x") -> Lora:
    """Read adapters of any layout.

    Args:
        path: The file; or the folder that a LoRA run, `riffusion export` or peft wrote.
        modules: The networks they are for, on any device: they name the layers and say their sizes.
        where: What these networks are, for messages.

    Raises:
        InputError: If the file is damaged, holds other adapters than LoRA, does not say their strength, or does not fit the
            networks.
    """
    files = lora_files(path)
    if not files:
        missing = f"no {LORA_FILE} or {PEFT_FILE} in this folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {missing}")
    layers: dict[str, LoraLayer] = {}
    for file in files:
        tensors, metadata = open_tensors(file)
        layout = _kind(tensors)
        if layout not in LORAS:
            raise InputError(f"{file}: this is {layout}, not a LoRA")
        scales = _peft_scales(file) if layout == LORA_PEFT else _scales(file, metadata)
        read = _read_layers(file, tensors, layout, scales, modules, where)
        _check_magnitudes(file, read, scales)
        _check_fits(file, read, modules, where)
        layers |= read
    codec = read_metadata_spectrogram(file, metadata)
    if codec is None and path.is_dir():
        codec = load_spectrogram(path)
    return Lora(layers, codec, metadata, _LAYOUT_NAMES[layout], str(path))


def _kind(tensors: Mapping[str, LazyTensor]) -> str:
    return detect_file({name: tensor.shape for name, tensor in tensors.items()})


def _read_layers(
    file: Path,
    tensors: Mapping[str, LazyTensor],
    layout: str,
    scales: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    where: str,
) -> dict[str, LoraLayer]:
    """Read the adapters of one file, by the path of the layer."""
    named = _kohya_paths(modules) if layout == LORA_KOHYA else {}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        name, kind = _split(key)
        layer = named.get(name) if layout == LORA_KOHYA else _plain_path(name)
        if layer is None or not kind:
            unknown.append(key)
            continue
        weight = tensor.load()
        if kind != "alpha":
            check_weight(str(file), key, weight)
        parts.setdefault(layer, {})[kind] = weight
    if unknown:
        raise InputError(f"{file}: does not fit {where}: {len(unknown)} unexpected keys: {shortened(unknown)}")
    halves = [layer for layer, found in parts.items() if not {"down", "up"} <= set(found)]
    if halves:
        raise InputError(f"{file}: {len(halves)} layers have only one half of their adapter: {shortened(halves)}")
    if layout == LORA_PEFT and not scales and not all("alpha" in found for found in parts.values()):
        raise InputError(
            f"{file}: does not say how strong its adapters are; put the {PEFT_CONFIG_FILE} that peft wrote with it beside it"
        )
    return {layer: _layer(file, layer, found, scales) for layer, found in parts.items()}


def write_diffusers_lora(path: Path, lora: Lora, *, dtype: torch.dtype | None = None, extra: Mapping[str, str]) -> None:
    """Write adapters in diffusers' layout, with peft's config in the metadata.

    Args:
        path: The file.
        lora: The adapters.
        dtype: What the weights become; None keeps them.
        extra: More metadata.
    """
    tensors: dict[str, LazyTensor] = {}
    config: dict[str, Any] = {}
    for part in ("unet", "text_encoder"):
        layers = {name.partition(".")[2]: one for name, one in lora.layers.items() if name.startswith(part + ".")}
        prefix = f"{part}.text_model." if part == "text_encoder" else f"{part}."
        for name, layer in layers.items():
            tensors[f"{prefix}{name}.lora_A.weight"] = in_memory(layer.down)
            tensors[f"{prefix}{name}.lora_B.weight"] = in_memory(layer.up)
            if layer.magnitude is not None:
                tensors[f"{prefix}{name}.lora_magnitude_vector"] = in_memory(layer.magnitude)
        if layers:
            config |= {f"{part}.{key}": value for key, value in _peft_config(layers).items()}
    texts = {"format": "pt", _ADAPTER_METADATA_KEY: json.dumps(config, indent=2, sort_keys=True)}
    write_tensors(path, tensors, dtype=dtype, metadata=texts | _codec_text(lora) | dict(extra))


def write_kohya_lora(path: Path, lora: Lora, *, dtype: torch.dtype | None = None, extra: Mapping[str, str]) -> None:
    """Write adapters in kohya's layout, as A1111, Forge and ComfyUI read them; arguments as in `write_diffusers_lora`."""
    tensors: dict[str, LazyTensor] = {}
    for name, layer in lora.layers.items():
        part, _, rest = name.partition(".")
        start = _KOHYA_PREFIXES[part] + rest.replace(".", "_")
        tensors[f"{start}.lora_down.weight"] = in_memory(layer.down)
        tensors[f"{start}.lora_up.weight"] = in_memory(layer.up)
        tensors[f"{start}.alpha"] = in_memory(torch.tensor(layer.alpha))
        if layer.magnitude is not None:
            tensors[f"{start}.dora_scale"] = in_memory(layer.magnitude[:, None])
    ranks = {layer.rank for layer in lora.layers.values()}
    alphas = {layer.alpha for layer in lora.layers.values()}
    texts = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(alphas.pop()) if len(alphas) == 1 else "Dynamic",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "sshs_model_hash": hash_tensors(tensors, dtype),
    }
    write_tensors(path, tensors, dtype=dtype, metadata=texts | _codec_text(lora) | dict(extra))


def merge_lora(model: LazyModel, lora: Lora, scale: float = 1.0) -> LazyModel:
    """Return the model with adapters added to the weights they adapt; the sums are made when they are read, in fp32."""

    def changed(base: LazyTensor, layer: LoraLayer) -> LazyTensor:
        return LazyTensor(base.shape, torch.float32, lambda: layer.adapted(base.load(), scale))

    weights = {}
    for name, layer in lora.layers.items():
        part, _, rest = name.partition(".")
        weights[f"{name}.weight"] = changed(model.tensors[part][f"{rest}.weight"], layer)
    return model.replaced(weights)


def from_peft(tensors: Mapping[str, Tensor], alpha: float, spectrogram: SpectrogramConfig | None, source: str) -> Lora:
    """Return adapters from a network's own names for them, as a checkpoint keeps them: `unet.….lora_A.default.weight`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, kind = _split(re.sub(r"\.(lora_[AB]|lora_magnitude_vector)\.\w+\.weight$", r".\1.weight", key))
        parts.setdefault(name, {})[kind] = tensor
    layers = {
        name: LoraLayer(found["down"], found["up"], alpha, found.get("magnitude")) for name, found in parts.items()
    }
    return Lora(layers, spectrogram, {}, "diffusers", source)


def _split(key: str) -> tuple[str, str]:
    """Split a key into its layer and `down`, `up` or `alpha`; both empty where it is no part of a LoRA."""
    # diffusers up to 0.20 kept adapters in the attention's processor: `attn1.processor.to_out_lora.down.weight`.
    if found := re.fullmatch(r"(.*)\.processor\.(to_\w+?)_lora\.(down|up)\.weight", key):
        inner = "to_out.0" if found[2] == "to_out" else found[2]
        return f"{found[1]}.{inner}", found[3]
    for suffix, kind in _SUFFIXES.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), kind
    return "", ""


def _plain_path(name: str) -> str | None:
    name = name.removeprefix(PEFT_PREFIX)
    if name.startswith(("text_encoder.", "text_model.", "encoder.layers.")):
        return "text_encoder." + name.removeprefix("text_encoder.").removeprefix("text_model.")
    if name.startswith("unet."):
        return name
    return f"unet.{name}" if name.startswith(("down_blocks.", "mid_block.", "up_blocks.")) else None


def _kohya_paths(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return the path of every layer by its name in kohya's layout."""
    return {
        prefix + name.removeprefix("text_model.").replace(".", "_"): f"{part}.{name.removeprefix('text_model.')}"
        for part, prefix in _KOHYA_PREFIXES.items()
        for name, module in modules[part].named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def _scales(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return peft's config of each part, its keys behind `unet.` or `text_encoder.`, as diffusers keeps it."""
    text = metadata.get(_ADAPTER_METADATA_KEY)
    return {} if text is None else _json_object(text, f"{file}: its metadata '{_ADAPTER_METADATA_KEY}'")


def _peft_scales(file: Path) -> dict[str, Any]:
    """Return what peft's config beside a file says, in the form of `_scales`; nothing where there is none."""
    path = file.with_name(PEFT_CONFIG_FILE)
    if not path.is_file():
        return {}
    config = _json_object(path.read_text(encoding="utf-8", errors="replace"), str(path))
    kind, start = str(config.get("peft_type", "LORA")), str(config.get("init_lora_weights", "")).lower()
    if kind != "LORA" or config.get("use_qalora"):
        raise InputError(
            f"{path}: these are {kind if kind != 'LORA' else 'QA-LoRA'} adapters; only LoRA and DoRA are read"
        )
    if start.startswith(_BASE_CHANGING_STARTS):
        raise InputError(
            f"{path}: init_lora_weights={start} has changed the base too; save the adapters in peft with "
            "path_initial_model_for_weight_conversion"
        )
    if not isinstance(config.get("lora_alpha"), int | float):
        raise InputError(f"{path}: has no lora_alpha, so the strength of the adapters is unknown; get the file again")
    return {f"{part}.{key}": value for part in _KOHYA_PREFIXES for key, value in config.items()}


def _json_object(text: str, what: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        raise InputError(f"{what} is not valid JSON") from None
    if not isinstance(data, dict):
        raise InputError(f"{what} is not a JSON object")
    return data


def _layer(file: Path, name: str, found: Mapping[str, Tensor], scales: Mapping[str, Any]) -> LoraLayer:
    """Build a layer; its alpha is its own, or that of peft's config, or its rank, which scales by one."""
    part = name.partition(".")[0]
    rank = int(found["down"].shape[0])
    if "alpha" in found:
        alpha = float(found["alpha"])
    else:
        alpha = _peft_alpha(
            file, name, scales.get(f"{part}.alpha_pattern") or {}, scales.get(f"{part}.lora_alpha", rank)
        )
        if scales.get(f"{part}.use_rslora"):
            alpha *= math.sqrt(rank)
    magnitude = found.get("magnitude")
    return LoraLayer(found["down"], found["up"], alpha, None if magnitude is None else magnitude.flatten())


def _peft_alpha(file: Path, layer: str, patterns: Mapping[str, Any], default: Any) -> float:
    """Return the alpha of a layer as peft finds it: of the first pattern that the end of its name matches."""
    part, _, rest = layer.partition(".")
    names = [rest, f"text_model.{rest}"] if part == "text_encoder" else [rest]  # as transformers 5 and 4 name it
    try:
        for pattern, alpha in patterns.items():
            if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                return float(alpha)
        return float(default)
    except (re.error, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: the strength of its adapters cannot be read from its config ({error})") from None


def _check_magnitudes(file: Path, layers: Mapping[str, LoraLayer], scales: Mapping[str, Any]) -> None:
    """Refuse a DoRA without its magnitudes, or with the norms of columns, which some trainers use."""
    for part in _KOHYA_PREFIXES:
        own = [layer.magnitude for name, layer in layers.items() if name.startswith(part + ".")]
        if scales.get(f"{part}.use_dora") and not all(magnitude is not None for magnitude in own):
            raise InputError(
                f"{file}: says that it is a DoRA, but has no magnitudes for some layers; download it again"
            )
    by_column = [
        name for name, layer in layers.items() if layer.magnitude is not None and len(layer.magnitude) != layer.size[0]
    ]
    if by_column:
        raise InputError(
            f"{file}: a DoRA with the norms of columns, not of rows: {shortened(by_column)}; merge it with the program that "
            "made it"
        )


def _check_fits(file: Path, layers: Mapping[str, LoraLayer], modules: Mapping[str, nn.Module], where: str) -> None:
    shapes = {
        f"{part}.{name.removeprefix('text_model.')}": tuple(module.weight.shape)
        for part in _KOHYA_PREFIXES
        for name, module in modules[part].named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    misfits = [name for name, layer in layers.items() if name not in shapes or layer.size != shapes[name]]
    if misfits:
        raise InputError(
            f"{file}: was trained on another base than {where}: {len(misfits)} of its {len(layers)} layers are missing there "
            f"or of another size: {shortened(misfits)}"
        )


def _peft_config(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """Return peft's config for layers of the part; the most common rank and alpha are the rule, others are patterns."""
    from peft import LoraConfig

    ranks = [layer.rank for layer in layers.values()]
    alphas = [layer.alpha for layer in layers.values()]
    rank, alpha = max(set(ranks), key=ranks.count), max(set(alphas), key=alphas.count)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        rank_pattern={name: layer.rank for name, layer in layers.items() if layer.rank != rank},
        alpha_pattern={name: layer.alpha for name, layer in layers.items() if layer.alpha != alpha},
        use_dora=any(layer.magnitude is not None for layer in layers.values()),
        target_modules=sorted(layers),
    ).to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def _codec_text(lora: Lora) -> dict[str, str]:
    return {} if lora.spectrogram is None else {METADATA_KEY: json.dumps(to_data(lora.spectrogram))}


def add_lora(
    network: Any,
    *,
    rank: int,
    alpha: float,
    target_modules: Sequence[str],
    seed: int,
    target_blocks: Sequence[str] = (),
    use_dora: bool = False,
    use_rslora: bool = False,
    key: str = "method.lora_target_modules",
) -> None:
    """Add trainable low-rank adapters to linear layers of the UNet or the text encoder (Hu et al. 2021, arXiv:2106.09685).

    Args:
        network: The UNet or the text encoder.
        rank: Rank of the adapters.
        alpha: Their scale; see `lora_scale_alpha`.
        target_modules: Last names of the layers that get one, such as `to_q`.
        seed: The run's seed: the weights that an adapter starts with are a function of it and of the layer's place.
        target_blocks: Only layers inside these blocks, such as `mid_block`; empty is all.
        use_dora: DoRA (Liu et al. 2024, arXiv:2402.09353).
        use_rslora: rsLoRA (Kalajdzievski 2023, arXiv:2312.03732).
        key: Where `target_modules` came from, for messages.

    Raises:
        InputError: If no layer has one of the names.
    """
    from peft import LoraConfig

    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple(f".{target}" for target in target_modules))
    ]
    if not names:
        raise InputError(f"{key}: the {type(network).__name__} has no linear layer named {', '.join(target_modules)}")
    for block in target_blocks:
        if not any(name.startswith(f"{block}.") for name in names):
            raise InputError(f"method.lora_target_blocks: the UNet has no such layers in a block named {block}")
    if target_blocks:
        names = [name for name in names if name.startswith(tuple(f"{block}." for block in target_blocks))]
    network.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            init_lora_weights="gaussian",
            target_modules=names,
            use_dora=use_dora,
            use_rslora=use_rslora,
        ),
        adapter_name=ADAPTER,
    )
    _draw_adapters(network, rank, seed)
    network.train()


@torch.no_grad()
def _draw_adapters(network: nn.Module, rank: int, seed: int) -> None:
    """Give new adapters peft's Gaussian start, but from addressed noise: peft draws from torch's global generator."""
    purpose = f"adapters of the {type(network).__name__}"
    downs = [weight for name, weight in network.named_parameters() if name.endswith(f".lora_A.{ADAPTER}.weight")]
    for index, down in enumerate(downs):  # (rank, in); its partner, which is added as up @ down, starts at zero
        down.copy_(torch.from_numpy(normal(seed, purpose, tuple(down.shape), index)) / rank)


def lora_scale_alpha(*, rank: int, alpha: float, use_rslora: bool) -> float:
    """Return the alpha that, divided by the rank, gives the scale of the adapters, which is the only rule that files have."""
    return alpha * math.sqrt(rank) if use_rslora else alpha


def adapter_weights(components: Components) -> dict[str, Tensor]:
    """Return the weights of all adapters by their names in the model: `unet.….lora_A.default.weight`."""
    return {
        f"{part}.{name}": weight
        for part in ("unet", "text_encoder")
        for name, weight in components.modules[part].named_parameters()
        if ".lora_" in name
    }
