"""Pretrained listeners: audio to tags and embeddings, and tempo and key from the sound."""
