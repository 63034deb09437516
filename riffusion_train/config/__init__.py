"""Typed configuration: one root dataclass per command, composed by Hydra from the presets in `conf/`. Imports no torch."""
