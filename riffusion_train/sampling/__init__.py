"""From prompt to image to sound."""
