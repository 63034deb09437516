"""Composed music in many styles: styles, composer, sampler, mix and captions; clip `i` of seed `s` depends on (s, i) alone."""
