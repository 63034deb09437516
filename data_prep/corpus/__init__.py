"""The demo's corpus: short clips, composed by rule, rendered with sampled instruments, and captioned."""
