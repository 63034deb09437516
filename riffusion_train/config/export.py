"""The config of `riffusion export`."""

import dataclasses
import enum

from omegaconf import MISSING


class ExportFormat(enum.Enum):
    """The layout of an exported model."""

    diffusers = "diffusers"
    """A diffusers folder with `spectrogram.json`."""


@dataclasses.dataclass
class ExportConfig:
    """Everything `riffusion export` can be told."""

    run: str = MISSING
    """Run folder made by `riffusion train`."""
    out: str = MISSING
    """Folder to write; it must not exist."""
    format: ExportFormat = ExportFormat.diffusers
    """The layout."""
