"""Captions: text, tables, sidecars and tags, and the templates that compose captions from fields."""
