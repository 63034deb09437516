"""The live player: endless music from a model in the browser, steered while it plays."""
