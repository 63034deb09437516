"""The config of `riffusion demo`."""

import dataclasses


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
