"""`riffusion VERB …`: find the verb, run it, turn its end into an exit code."""

import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence

from riffusion_train import __version__
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_FAULT, EXIT_INPUT, EXIT_STOPPED, InputError, StoppedError

VERBS = {
    "prepare": "slice captioned audio into a dataset of spectrogram images",
    "train": "fine-tune a Stable Diffusion 1.5 model on a dataset",
    "export": "write the model of a run as a diffusers folder, a single file or a LoRA",
    "import": "turn a model or a LoRA of any format into any format",
    "sample": "make music from a prompt",
    "play": "play a model in the browser: endless music, steered while it plays",
    "evaluate": "sample prompts × checkpoints × seeds into a page to listen and compare",
    "spectrogram": "encode audio to an image, decode an image to audio",
    "demo": "the whole way on this machine: compose, prepare, train, sample, measure",
    "doctor": "say what a model or LoRA is, and whether it can be used",
}
_MODULES = {"import": "import_model"}
"""Modules that cannot have the name of their verb."""

_OUTPUT_ERRORS: dict[int | None, str] = {
    errno.ENOSPC: "no space left on the disk of",
    errno.EDQUOT: "the disk quota is used up for",
    errno.EFBIG: "the file system allows no file as large as",
    errno.EROFS: "the file system is read-only at",
    errno.EACCES: "no permission to write",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 1 our fault, 2 wrong input, 3 stopped with the state saved."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return EXIT_DONE if words else EXIT_INPUT
    if words[0] == "--version":
        print(f"riffusion-train {__version__}")
        return EXIT_DONE
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        print(f"riffusion: unknown verb '{verb}'; choose from: {', '.join(VERBS)}", file=sys.stderr)
        return EXIT_INPUT
    return _run(verb, rest)


def _run(verb: str, words: list[str]) -> int:
    try:
        importlib.import_module(f"riffusion_train.cli.{_MODULES.get(verb, verb)}").main(words)
    except InputError as error:
        print(f"riffusion {verb}: {error}", file=sys.stderr)
        return EXIT_INPUT
    except StoppedError as error:
        print(f"riffusion {verb}: stopped: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print(f"riffusion {verb}: interrupted; the same command goes on where it can", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        # Whoever read our output has had enough, as in `riffusion train --help | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as error:
        problem = _OUTPUT_ERRORS.get(_system_error(error))
        if problem is None:
            traceback.print_exc()
            return EXIT_FAULT
        what = f"{problem} {getattr(error, 'filename', None) or 'the output'}"
        print(f"riffusion {verb}: {what}; mend that and run the same command again", file=sys.stderr)
        return EXIT_INPUT
    return EXIT_DONE


def _system_error(error: Exception) -> int | None:
    """Return the system's error number; safetensors, which is written in Rust, has it in the text alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _usage() -> str:
    rows = "\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items())
    return f"usage: riffusion VERB [key=value …]\n\n{rows}\n\nriffusion VERB --help lists the keys of a verb."
