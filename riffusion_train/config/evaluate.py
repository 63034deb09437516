"""The config of `riffusion evaluate score`."""

import dataclasses

from omegaconf import MISSING

from riffusion_train.config.export import ExportWeights
from riffusion_train.config.listening import EmbedderName
from riffusion_train.config.sample import Quality, SamplerConfig


@dataclasses.dataclass
class ScoreConfig(SamplerConfig):
    """All keys of `riffusion evaluate score`; the clips, or the model to sample them from, are a separate argument."""

    real: str = MISSING
    """What the clips are compared with: a dataset folder, of which the validation split is taken, or a folder of sounds."""
    out: str = MISSING
    """Folder of the page and of `scores.json`, and of the clips that are sampled; clips that exist there are kept."""
    audio: str | None = None
    """With a dataset: the folder that it was prepared from. The clips are then also compared with the original sound, which
    counts what the codec loses."""
    embedder: EmbedderName = EmbedderName.musicnn
    """What listens."""
    embedder_source: str | None = None
    """Hub id or folder of the embedder's weights; null takes those that ship with it, or its usual ones."""
    num_clips: int = 200
    """With a model: how many clips to sample, from held-out captions."""
    seed: int = 0
    """With a model: seed of the first clip, counted up from clip to clip. Also of the intervals and controls."""
    checkpoint: str = "final"
    """With a run: `final`, `newest`, `best`, or a step."""
    weights: ExportWeights = ExportWeights.ema
    """With a run: which of its weights."""
    batch_size: int = 4
    """With a model: clips denoised together; it does not change them."""
    num_real: int = 1000
    """Real clips to compare with at most, spread evenly over what there is; decoding them takes time, once."""
    real_quality: Quality = Quality.normal
    """How long to search for the phase when images of a dataset become sound."""
    copies: bool = True
    """With a dataset: search each clip in its training split."""
    num_slices: int | None = None
    """Training slices to search at most, spread evenly over the split; null searches them all."""
    hear_slices: bool = True
    """With `copies`: also say which training slice sounds most like a clip, which takes hearing all of them once; whether a
    clip is flagged does not depend on it."""
    title: str = "Scores"
    """The page's title."""
