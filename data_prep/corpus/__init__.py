"""Corpora composed by rule: short captioned clips, the exercises of the demo, and music in many styles (music/)."""
