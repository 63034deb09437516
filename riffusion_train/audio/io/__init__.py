"""Audio files: read, write, tags, loudness."""
