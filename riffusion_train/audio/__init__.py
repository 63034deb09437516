"""The codec: sound to image and image to sound, and audio files in and out."""
