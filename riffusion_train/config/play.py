"""The config of `riffusion play`."""

import dataclasses

from riffusion_train.config.sample import Dtype, Quality, SchedulerName


@dataclasses.dataclass
class PlayConfig:
    """Everything `riffusion play` can be told beside the model."""

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` serves every machine that can reach this one."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free."""
    origins: list[str] = dataclasses.field(default_factory=list)
    """Further origins whose pages may steer, as `[https://music.example.org]` before a proxy."""
    prompt: str | None = None
    """What plays first; null takes one of ours."""
    seed_image: str | None = None
    """The seed image that sessions begin with; null for none."""
    num_inference_steps: int = 20
    """Denoising steps at most; fewer are done where time is short."""
    guidance_scale: float = 7.0
    """Classifier-free guidance that sessions begin with."""
    scheduler: SchedulerName = SchedulerName.dpmsolver
    """The solver."""
    quality: Quality = Quality.normal
    """How long to search for the phase of the sound."""
    max_streams: int | None = None
    """Sessions that play at once; null lets in as many as the measured speed of this machine allows."""
    sockets_per_address: int = 64
    """Listeners of one address; all who share a network may have the same one."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`; null takes the best there is."""
    dtype: Dtype = Dtype.fp32
    """What UNet and text encoder compute in."""
    num_threads: int | None = None
    """CPU threads; null leaves it to torch."""
