"""What every part needs and none owns: the version, errors, files, progress, provenance, signals, the hub."""

__version__ = "0.1.0"
