"""The config of `riffusion prepare merge`: parts of an array job -> one dataset folder."""

import dataclasses

from omegaconf import MISSING


@dataclasses.dataclass
class MergeConfig:
    """Where the dataset goes; all that it is made of stands in the parts."""

    out: str = MISSING
    """The dataset folder to make. Its parts lie in `<out>.parts` where no other folders are named."""
    overwrite: bool = False
    """Replace a dataset that was made with other settings."""
    push_to_hub: str | None = None
    """Repository to upload the finished dataset to, `user/name`."""
    private: bool = False
    """Whether a repository that `push_to_hub` makes is private."""
