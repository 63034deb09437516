"""One track from the file to its slices: decoded, measured, brought to one loudness, cut, encoded, stored."""
