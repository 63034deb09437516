"""The config of `riffusion evaluate grid`."""

import dataclasses

from omegaconf import MISSING

from riffusion_train.config.export import ExportWeights
from riffusion_train.config.sample import AudioFormat, Quality, SchedulerName


@dataclasses.dataclass
class GridConfig:
    """Everything `riffusion evaluate grid` can be told beside the models and the prompts."""

    out: str = MISSING
    """Folder of the site; clips that stand in it are not made again."""
    checkpoints: str = "all"
    """Of a run folder: `all`, `final`, `newest`, `best`, or steps, with commas between them."""
    weights: ExportWeights = ExportWeights.ema
    """Of a run folder: which of its weights."""
    seeds: str = "0"
    """Seeds, with commas between them; `0-3` is 0,1,2,3. Each is sampled for every prompt and every model."""
    title: str = "Audition"
    """What the page is called."""
    guidance_scale: float = 7.0
    """Classifier-free guidance; 1 is none."""
    num_inference_steps: int = 20
    """Denoising steps."""
    scheduler: SchedulerName = SchedulerName.dpmsolver
    """The solver."""
    batch_size: int = 4
    """Clips denoised together."""
    format: AudioFormat = AudioFormat.wav
    """The audio file format."""
    quality: Quality = Quality.normal
    """How long to search for the phase of the sound."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`; null takes the best there is."""
    num_threads: int | None = None
    """CPU threads; null leaves it to torch."""
