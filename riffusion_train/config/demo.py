"""The config of `riffusion demo`."""

import dataclasses


@dataclasses.dataclass
class DemoConfig:
    """Everything `riffusion demo` can be told."""

    out: str = "runs/demo"
    """Folder of everything the demo makes."""
    scale: float = 1.0
    """Size of the demo: clips and training steps are multiplied by this."""
    seed: int = 0
    """Seed of the corpus, the training and the samples."""
    soundfont: str | None = None
    """Another SoundFont (.sf2) to render with; null takes the one that pretty_midi brings."""
    audio_dir: str | None = None
    """Your own folder of captioned audio in place of the composed corpus."""
    num_threads: int | None = None
    """CPU threads; null is one for each available core."""
