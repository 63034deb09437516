"""From mel magnitudes to sound: phase, transforms and the loops that find it."""
