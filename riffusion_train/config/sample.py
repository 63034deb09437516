"""The configs of everything that samples a model: `riffusion sample`, `play`, `evaluate` and `demo`.

How a single clip is denoised stands in `denoising`; how the codec inverts its image, in `spectrogram`.
"""

import dataclasses
import enum
from typing import Any

from omegaconf import MISSING

from riffusion_train.config.denoising import DenoisingConfig
from riffusion_train.config.model import ExportWeights
from riffusion_train.config.spectrogram import Quality


class AudioFormat(enum.Enum):
    """The file format of the audio."""

    wav = "wav"
    flac = "flac"
    mp3 = "mp3"
    ogg = "ogg"
    opus = "opus"


class ModeName(enum.Enum):
    """What is made."""

    text = "text"
    """A clip of the model's own length from each prompt."""
    audio = "audio"
    """The sounds of `--audio` changed towards the prompt; `strength` says how much."""
    inpaint = "inpaint"
    """Parts of the sound of `--audio` generated anew: `--keep`, `--renew`, `--band`, `--mask`."""
    extend = "extend"
    """The sound of `--audio` continued by `duration`, or led up to with `backwards=true`."""
    long = "long"
    """One piece of `duration`; `--schedule` changes its prompt on the way."""
    loop = "loop"
    """A loop whose end meets its beginning, of about `duration`, snapped to bars by `bpm`."""
    walk = "walk"
    """From prompt to prompt without a break."""
    morph = "morph"
    """`steps` sounds between the two of `--audio`."""


class Dtype(enum.Enum):
    """What UNet and text encoder compute in."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class EmbedderName(enum.Enum):
    """The pretrained model that listens."""

    musicnn = "musicnn"
    """Two music taggers that ship with the package (Pons & Serra 2019): 100 tags, an embedding of 200 numbers for each 3 s."""
    clap = "clap"
    """LAION-CLAP (Wu et al. 2023) from the hub or a folder: embeddings of sounds and of texts in one space."""


@dataclasses.dataclass
class ClipConfig(DenoisingConfig):
    """How clips are sampled, by any command and while training."""

    quality: Quality = Quality.normal
    """How long to search for the phase of the sound."""
    target_lufs: float | None = -14.0
    """Integrated loudness of a clip, or as near as a true peak of -1 dBTP allows; null keeps the level."""


@dataclasses.dataclass
class SamplerConfig(ClipConfig):
    """All options of the sampler, shared by the commands that sample a model."""

    guidance_scale: float | None = None
    """Strength of guidance; 1 is none; null takes what the model recommends, usually 7."""
    guide: str | None = None
    """Autoguidance (Karras et al. 2024): a weaker model, or a checkpoint of the same run, to lead away from; it takes the
    place of the negative prompt."""
    unet_batch_size: int | None = None
    """Windows in one call of the UNet, whatever the number of clips; null is 1 on a CPU and 4 elsewhere."""
    dtype: Dtype = Dtype.fp32
    """The number format in which the UNet and the text encoder compute."""
    channels_last: bool = False
    """Store the weights in the layout that tensor cores read fastest."""
    compile: bool = False
    """Compile the UNet: about a minute at first, faster steps afterwards; loops are sampled without it."""
    attention_slicing: bool = False
    """Compute attention in slices: less memory, slower."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`; null takes the fastest."""
    num_threads: int | None = None
    """CPU threads; null leaves it to torch."""


def clip_options(config: ClipConfig) -> dict[str, Any]:
    """Return how clips are sampled as keyword arguments of `Sampler`."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(ClipConfig)}


def sampler_options(config: SamplerConfig) -> dict[str, Any]:
    """Return the options as the keyword arguments of `Sampler` and of `Sampler.load`."""
    names = (field.name for field in dataclasses.fields(SamplerConfig))
    return {name: getattr(config, name) for name in names if name != "num_threads"}


@dataclasses.dataclass
class SampleConfig(SamplerConfig):
    """All keys of `riffusion sample`; the model, the texts and the files are separate arguments."""

    out: str = MISSING
    """Folder to write into; it is made if it does not exist."""
    mode: ModeName = ModeName.text
    """What is made."""
    seed: int = 0
    """Seed of the first variation; variation n uses seed + n."""
    num_variations: int = 1
    """Clips of each prompt."""
    vary_seed: bool = False
    """Also count the seed up from prompt to prompt, so that no two clips start from the same noise."""
    guidance_scales: list[float] | None = None
    """Several guidance scales, each with every prompt and seed: `guidance_scales=[3,7]`."""
    unconditional: bool = False
    """Make clips without a prompt and without guidance."""
    strength: float | None = None
    """How much of a source is changed, 0 to 1; null is 0.55 in audio, 0.75 from a seed image in walk, 1 in inpaint."""
    duration: str | None = None
    """How long: `90`, `90s`, `1:30`, `3min`, `1h`; null is a minute in long, 5 s more in extend, a clip in loop."""
    backwards: bool = False
    """In extend, add before the sound instead of after it."""
    pick: int = 0
    """In extend, make this many candidates, ask which to continue, and repeat until the answer is q."""
    bpm: float | None = None
    """In loop, beats a minute to which the length is snapped."""
    bars: int | None = None
    """In loop, the number of bars; null is the one nearest to `duration`."""
    beats_per_bar: int = 4
    """Beats of a bar."""
    clips: int = 4
    """In walk, clips from one prompt to the next."""
    seed_image: str | None = None
    """In walk, what all clips start from: beats, half_time, plucked, pad, or an image or sound file; null is noise alone."""
    strength_end: float | None = None
    """In walk, the strength at every second prompt; null is `strength`."""
    guidance_end: float | None = None
    """In walk, the guidance at every second prompt; null is `guidance_scale`."""
    alpha_power: float = 1.0
    """In walk, the curve of the transition between two prompts: above 1 it begins slowly."""
    steps: int = 5
    """In morph, the number of sounds, both ends included."""
    batch_size: int = 4
    """Clips denoised together; it does not change them."""
    format: AudioFormat = AudioFormat.wav
    """The audio file format."""
    certificate: str | None = None
    """PEM file of certificates, the signer's first: clips then carry a signed C2PA manifest (extra `c2pa`); null for none."""
    certificate_key: str | None = None
    """PEM file of the private key that belongs to `certificate`."""
    timestamp_url: str | None = None
    """With `certificate`: an RFC 3161 service that confirms the time; null asks none."""


@dataclasses.dataclass
class PlayConfig(SamplerConfig):
    """All keys of `riffusion play`; the model is a separate argument."""

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` serves every machine that can reach this one, and asks for a token."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free."""
    token: str | None = None
    """What every client must know; null makes one if `host` is not this machine alone, and an empty text asks for none."""
    origins: list[str] = dataclasses.field(default_factory=list)
    """Other origins whose pages may control the player, such as `[https://music.example.org]` behind a proxy."""
    prompt: str | None = None
    """The first prompt; null takes one that the model suggests, else one of ours."""
    seed_image: str | None = None
    """The seed image that sessions begin with; null for none."""
    num_inference_steps: int | None = None
    """Denoising steps at most; fewer are done if time is short; null takes what the model recommends, usually 20."""
    max_streams: int | None = None
    """Sessions that play at once; null allows as many as the measured speed of this machine permits."""
    num_threads: int | None = None
    """Threads that compute; null leaves one core to the browser, without which changes are heard later."""
    sockets_per_address: int = 64
    """Connections from one address; all users of a network may share one."""


@dataclasses.dataclass
class GridConfig(SamplerConfig):
    """All keys of `riffusion evaluate grid`; the models and the prompts are separate arguments."""

    out: str = MISSING
    """Folder of the site; clips that exist there are not made again."""
    checkpoints: str = "all"
    """Of a run folder: `all`, `final`, `newest`, `best`, `judged`, or steps, separated by commas."""
    weights: ExportWeights = ExportWeights.ema
    """Of a run folder: which of its weights."""
    seeds: str = "0"
    """Seeds, separated by commas; `0-3` is 0,1,2,3. Each is sampled for every prompt and every model."""
    title: str = "Audition"
    """The page's title."""
    batch_size: int = 4
    """Clips denoised together."""
    format: AudioFormat = AudioFormat.wav
    """The audio file format."""
    real: str | None = None
    """A dataset folder, such as the one that the models were trained on: each clip is then scored against it, and the page can
    sort and filter by the scores and shows which clips may be copies."""
    num_real: int = 1000
    """With `real`: held-out slices to compare with at most; decoding them takes time, once for a dataset."""
    num_slices: int | None = None
    """With `real`: training slices to search for copies at most; null searches them all."""


@dataclasses.dataclass
class JudgeConfig(SamplerConfig):
    """How clips are sampled and judged, by `evaluate score` and `evaluate run`."""

    embedder: EmbedderName = EmbedderName.musicnn
    """What listens."""
    embedder_source: str | None = None
    """Hub id or folder of the embedder's weights; null takes those that ship with it, or its usual ones."""
    seed: int = 0
    """Seed of the first clip that is sampled, counted up from clip to clip. Also of the intervals and controls."""
    weights: ExportWeights = ExportWeights.ema
    """Which weights of a run."""
    batch_size: int = 4
    """Clips denoised together; it does not change them."""
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


@dataclasses.dataclass
class ScoreConfig(JudgeConfig):
    """All keys of `riffusion evaluate score`; the clips, or the model to sample them from, are a separate argument."""

    real: str = MISSING
    """What the clips are compared with: a dataset folder, of which the validation split is taken, or a folder of sounds."""
    out: str = MISSING
    """Folder of the page and of `scores.json`, and of the clips that are sampled; clips that exist there are kept."""
    audio: str | None = None
    """With a dataset: the folder that it was prepared from. The clips are then also compared with the original sound, which
    counts what the codec loses."""
    num_clips: int = 200
    """With a model: how many clips to sample, from held-out captions."""
    checkpoint: str = "final"
    """With a run: `final`, `newest`, `best`, `judged`, or a step."""
    title: str = "Scores"
    """The page's title."""


@dataclasses.dataclass
class RunConfig(JudgeConfig):
    """All keys of `riffusion evaluate run`; the run is a separate argument."""

    real: str | None = None
    """The dataset whose validation split the clips are compared with; null is the dataset of the run."""
    out: str | None = None
    """Folder of the page; null is `scores/` in the run, which holds the scores and the clips in any case."""
    num_clips: int = 100
    """Clips to sample from each checkpoint, from held-out captions; the same captions and noise for all."""
    checkpoints: str = "all"
    """Which to score: `all`, `final`, `newest`, `best`, or steps, separated by commas. Scores of others stay on the page."""
    num_prompts: int = 4
    """Prompts whose clips the page plays, at every step."""
    title: str = "Checkpoints"
    """The page's title."""


@dataclasses.dataclass
class DemoConfig:
    """All keys of `riffusion demo`."""

    out: str = "runs/demo"
    """Folder for everything that the demo makes."""
    scale: float = 1.0
    """Size of the demo: clips and training steps are multiplied by this."""
    seed: int = 0
    """Seed of the corpus, the training and the samples."""
    soundfont: str | None = None
    """Another SoundFont (.sf2) to render with; null takes the one that comes with pretty_midi."""
    base: str | None = None
    """The model to fine-tune: `laptop`, a folder, a file or a hub id. `none` trains a smaller one from nothing; null is
    `laptop` where its weights are installed, else `none`."""
    audio_dir: str | None = None
    """Your own folder of captioned audio instead of the composed corpus."""
    num_threads: int | None = None
    """CPU threads; null is one for each available core."""
