"""The command line: one console script `riffusion`, one thin file per verb."""
