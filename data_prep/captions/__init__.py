"""Captions: cleaned, read from sidecars and tags, composed by templates."""
