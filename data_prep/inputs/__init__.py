"""What goes in: audio files wherever they lie, with what tables and names say about them."""
