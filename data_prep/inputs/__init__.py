"""Inputs: finding and fetching audio files, with the captions and columns that tables, sidecars and names give them."""
