"""`riffusion sample MODEL --prompt TEXT out=DIR [mode=…]`: make music. `riffusion sample seeds FOLDER` writes seed images."""

from collections.abc import Sequence

from riffusion_train.cli.command import help_text
from riffusion_train.cli.sample import seeds
from riffusion_train.cli.sample.words import FLAGS_HELP, USAGE, parse
from riffusion_train.config.sample import SampleConfig


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    if any(word in ("-h", "--help") for word in words):
        print(f"{help_text('sample', SampleConfig, USAGE)}\n{FLAGS_HELP}\n\n{seeds.USAGE}")
        return
    if words and words[0] == "seeds":
        seeds.run(words[1:])
        return
    flags, model, config, given = parse(words)
    from riffusion_train.cli.sample.running import run

    run(flags, model, config, given)
