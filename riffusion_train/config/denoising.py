"""How a model is denoised: solver, steps and guidance, as the user says, the model recommends, or is usual."""

import dataclasses
import enum
import types
from collections.abc import Mapping, Sequence
from typing import Any

from riffusion_train.runtime.errors import InputError


class SchedulerName(enum.Enum):
    """The solver of the denoising equation."""

    dpmsolver = "dpmsolver"
    """DPM-Solver++ 2M (Lu et al. 2022)."""
    dpmsolver_sde = "dpmsolver_sde"
    """SDE-DPM-Solver++ 2M (Lu et al. 2022): new noise in every step, a function of the seed and the step."""
    ddim = "ddim"
    """DDIM (Song et al. 2020)."""
    euler = "euler"
    """Euler steps on the probability-flow ODE with Karras et al.'s parametrisation (2022)."""
    euler_a = "euler_a"
    """Euler steps with new noise after each (ancestral sampling)."""
    unipc = "unipc"
    """UniPC, a predictor and corrector (Zhao et al. 2023)."""
    lcm = "lcm"
    """For models and LoRAs distilled to latent consistency (Luo et al. 2023): four to eight steps, guidance 1 to 2."""


class TimestepSpacing(enum.Enum):
    """Where on the noise schedule the steps are."""

    model = "model"
    """As the model's scheduler says; `leading` for Stable Diffusion 1.5."""
    leading = "leading"
    """Evenly, from below the noisiest timestep down to the least noisy one."""
    trailing = "trailing"
    """Evenly, from the noisiest timestep on (Lin et al. 2023, arXiv:2305.08891)."""
    linspace = "linspace"
    """Evenly, with both ends."""
    karras = "karras"
    """Closest where there is little noise (Karras et al. 2022, arXiv:2206.00364); for `dpmsolver`, `unipc`, `euler`."""
    ays = "ays"
    """Align Your Steps (Sabour et al. 2024, arXiv:2404.14507), NVIDIA's table for SD 1.5; for `dpmsolver`, `euler`."""


class GuidanceName(enum.Enum):
    """How a prediction with the prompt and one without it are combined."""

    cfg = "cfg"
    """Classifier-free guidance (Ho and Salimans 2022)."""
    apg = "apg"
    """Adaptive projected guidance (Sadat et al. 2024): less saturation at a high `guidance_scale`."""


@dataclasses.dataclass
class DenoisingConfig:
    """How a model is denoised. Null takes what the model recommends in its `training.json`, else the usual value."""

    num_inference_steps: int | None = None
    """Denoising steps; usually 20."""
    scheduler: SchedulerName | None = None
    """The solver. Usually `dpmsolver`."""
    timesteps: TimestepSpacing | None = None
    """Where the steps are; usually `karras` for `dpmsolver` and `unipc` from 8 steps on, below that `trailing`, and `model`
    for the others."""
    guidance: GuidanceName | None = None
    """How predictions with and without the prompt are combined; usually `cfg`."""
    guidance_interval: list[float] | None = None
    """Guide only from the first to the second timestep, `[300,1000]`, 1000 being pure noise; usually `[0,1000]`."""
    guidance_rescale: float | None = None
    """Share, 0 to 1, by which a guided prediction gets the spread of the unguided one (Lin et al. 2023); usually 0."""
    apg_momentum: float | None = None
    """With `guidance=apg`: share of the earlier steps' guidance that is kept, negative to push away; usually -0.75."""
    apg_norm_threshold: float | None = None
    """With `guidance=apg`: largest norm of the guidance, for 64 x 64 latents; usually 7.5, 0 is none."""
    apg_eta: float | None = None
    """With `guidance=apg`: share of the part along the prediction, which saturates; usually 0."""


@dataclasses.dataclass
class RecommendedConfig(DenoisingConfig):
    """How a model says it is best sampled; null says nothing."""

    guidance_scale: float | None = None
    """Strength of guidance."""


USUAL: Mapping[str, Any] = types.MappingProxyType(
    {
        "num_inference_steps": 20,
        "scheduler": SchedulerName.dpmsolver,
        "guidance_scale": 7.0,
        "guidance": GuidanceName.cfg,
        "guidance_interval": (0.0, 1000.0),
        "guidance_rescale": 0.0,
        "apg_momentum": -0.75,
        "apg_norm_threshold": 7.5,
        "apg_eta": 0.0,
    }
)
"""What is taken where neither the user nor the model says something; those of Stable Diffusion 1.5. `timesteps` depends on the
solver and the number of steps, `usual_timesteps`."""

_FEWEST_KARRAS_STEPS = 8


def usual_timesteps(scheduler: SchedulerName, num_inference_steps: int) -> TimestepSpacing:
    """Return where the steps usually are; `docs/sampling.md` has the measurement."""
    if scheduler not in (SchedulerName.dpmsolver, SchedulerName.dpmsolver_sde, SchedulerName.unipc):
        return TimestepSpacing.model
    # Karras et al.'s spacing takes large steps through the noisy half, where few of them decide what is drawn.
    return TimestepSpacing.karras if num_inference_steps >= _FEWEST_KARRAS_STEPS else TimestepSpacing.trailing


def choose_denoising(given: Mapping[str, Any], recommended: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `RecommendedConfig`: the user's, else the model's, else the usual ones; `timesteps` may stay None.

    Args:
        given: The user's, by name; None where the user said nothing. Enum members may be given by value.
        recommended: The model's, as `read_recommended` returns them.

    Raises:
        InputError: If a value cannot be used.
    """
    names = [field.name for field in dataclasses.fields(RecommendedConfig)]
    said = {name: given.get(name) for name in names}
    chosen = {name: recommended.get(name) if value is None else value for name, value in said.items()}
    if said["scheduler"] is not None and said["timesteps"] is None:
        chosen["timesteps"] = None  # the model's were for its own solver
    return _checked({name: USUAL.get(name) if value is None else value for name, value in chosen.items()}, "")


def check_denoising(config: DenoisingConfig) -> None:
    """Check the values that a user gave, before a model is loaded.

    Raises:
        InputError: If one cannot be used.
    """
    choose_denoising(vars(config), {})


def read_recommended(data: Any, place: str) -> dict[str, Any]:
    """Return the options that a model recommends, from the JSON that it carries.

    Args:
        data: The JSON data; None is nothing.
        place: The file that it is in, for messages.

    Raises:
        InputError: If it holds something that cannot be used.
    """
    if data is None:
        return {}
    known = [field.name for field in dataclasses.fields(RecommendedConfig)]
    if not isinstance(data, dict):
        raise InputError(f"{place}: its 'sampling' must be an object of options")
    unknown = [name for name in data if name not in known]
    if unknown:
        raise InputError(f"{place}: recommends the unknown option '{unknown[0]}'; choose from: {', '.join(known)}")
    return _checked({name: value for name, value in data.items() if value is not None}, f"{place}: ")


def recommended_data(
    config: RecommendedConfig, inherited: Mapping[str, Any] = types.MappingProxyType({})
) -> dict[str, Any]:
    """Return what a config recommends as JSON data, without what it says nothing about.

    Args:
        config: The config.
        inherited: What the base model recommends, as `read_recommended` returns it; it stands where the config says nothing.

    Raises:
        InputError: If a value cannot be used.
    """
    said = {name: value for name, value in vars(config).items() if value is not None}
    # The base's timesteps were for its own solver.
    kept = {name: value for name, value in inherited.items() if not (name == "timesteps" and "scheduler" in said)}
    checked = _checked({**kept, **said}, "recommended.")
    return {name: value.value if isinstance(value, enum.Enum) else value for name, value in checked.items()}


_ENUMS: Mapping[str, type[enum.Enum]] = types.MappingProxyType(
    {"scheduler": SchedulerName, "timesteps": TimestepSpacing, "guidance": GuidanceName}
)


def _checked(values: dict[str, Any], place: str) -> dict[str, Any]:
    """Return options with members for the values of enums, after a check of their ranges."""
    checked = dict(values)
    for name, kind in _ENUMS.items():
        value = checked.get(name)
        if value is not None and not isinstance(value, kind):
            members = {one.value: one for one in kind}
            if value not in members:
                raise InputError(f"{place}{name}={value}: is unknown; choose from: {', '.join(members)}")
            checked[name] = members[value]
    interval = checked.get("guidance_interval")
    if interval is not None:
        ends = tuple(float(end) for end in interval) if isinstance(interval, Sequence) and _numbers(interval) else ()
        if len(ends) != 2 or not 0 <= ends[0] <= ends[1]:
            raise InputError(
                f"{place}guidance_interval={interval}: give two timesteps, the smaller first, such as [300,1000]"
            )
        checked["guidance_interval"] = ends
    for name, (low, high) in _RANGES.items():
        value = checked.get(name)
        if value is not None and not (_numbers([value]) and low <= value <= high):
            raise InputError(f"{place}{name}={value}: must be a number from {low:g} to {high:g}")
    return checked


_RANGES = {
    "num_inference_steps": (1, 1000),
    "guidance_scale": (-1000.0, 1000.0),
    "guidance_rescale": (0.0, 1.0),
    "apg_momentum": (-1.0, 1.0),
    "apg_norm_threshold": (0.0, 1e6),
    "apg_eta": (-10.0, 10.0),
}


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
