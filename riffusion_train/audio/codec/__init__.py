"""The codec: sound to spectrogram image and image to sound."""
