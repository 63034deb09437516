"""The dataset folder: its layout on disk, and reading it back for training."""
