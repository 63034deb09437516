"""What every part needs and none owns: errors, files, progress, provenance, signals, the hub."""
