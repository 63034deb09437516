"""One track from file to slices: decoded, measured, brought to one loudness, cut, encoded."""
