"""The config of `riffusion sample`."""

import dataclasses
import enum

from omegaconf import MISSING


class SchedulerName(enum.Enum):
    """The solver of the denoising equation."""

    dpmsolver = "dpmsolver"
    """DPM-Solver++ 2M with Karras sigmas (Lu et al. 2022)."""
    ddim = "ddim"
    """DDIM (Song et al. 2020)."""
    euler = "euler"
    """Euler steps on the probability-flow ODE with Karras et al.'s parametrisation (2022)."""


class AudioFormat(enum.Enum):
    """The file format of the audio."""

    wav = "wav"
    flac = "flac"
    mp3 = "mp3"
    ogg = "ogg"


class Inverter(enum.Enum):
    """How a spectrogram becomes sound."""

    pghi = "pghi"
    """Phase-gradient heap integration, then refinement by the image: the best sound for the time on a CPU."""
    fast_griffin_lim = "fast_griffin_lim"
    """Griffin-Lim with momentum from a random phase, then the same refinement."""
    griffin_lim = "griffin_lim"
    """torchaudio's least squares and Griffin-Lim: the compatible reference, slow."""


class Quality(enum.Enum):
    """How long to search for the phase."""

    draft = "draft"
    normal = "normal"
    best = "best"


@dataclasses.dataclass
class SampleConfig:
    """Everything `riffusion sample` can be told beside the model and the prompts."""

    out: str = MISSING
    """Folder to write into; it is made where it does not exist."""
    seed: int = 0
    """Seed of the first variation; variation n uses seed + n."""
    num_variations: int = 1
    """Clips of each prompt."""
    vary_seed: bool = False
    """Also count the seed up from prompt to prompt, so that no two clips start from the same noise."""
    guidance_scale: float = 7.0
    """Classifier-free guidance; 1 is none."""
    num_inference_steps: int = 20
    """Denoising steps."""
    scheduler: SchedulerName = SchedulerName.dpmsolver
    """The solver."""
    batch_size: int = 4
    """Clips denoised together; it does not change them."""
    format: AudioFormat = AudioFormat.wav
    """The audio file format."""
    quality: Quality = Quality.normal
    """How long to search for the phase of the sound."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`; null takes the best there is."""
    num_threads: int | None = None
    """CPU threads; null leaves it to torch."""
