"""`riffusion VERB …`: find the verb, run it, and turn the way it ends into an exit code."""

import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence

from riffusion_train.runtime import __version__
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_FAULT, EXIT_INPUT, EXIT_STOPPED, InputError, StoppedError

VERBS = {
    "prepare": "slice captioned audio into a dataset of spectrogram images",
    "train": "fine-tune a Stable Diffusion 1.5 model on a dataset",
    "export": "write the model of a run as a diffusers folder, a single file or a LoRA",
    "import": "convert a model or a LoRA from any format to any other",
    "sample": "make music from a prompt",
    "play": "play a model in the browser: endless music, steered while it plays",
    "evaluate": "sample prompts × checkpoints × seeds into a page to listen and compare",
    "spectrogram": "encode audio to an image, decode an image to audio",
    "demo": "everything on this machine: compose, prepare, train, sample, measure",
    "completion": "print a script that completes commands at the tab key, for bash, zsh or fish",
    "doctor": "say what a model or LoRA is, whether it can be used, and which model made a clip",
}
ENTRY_POINTS = {
    "export": ("model", "main_export"),
    "import": ("model", "main_import"),
    "doctor": ("model", "main_doctor"),
    "demo": ("play", "main_demo"),
}
"""Module and function of the verbs that share a module with another."""

_OUTPUT_ERRORS: dict[int | None, str] = {
    errno.ENOSPC: "no space left on the disk of",
    errno.EDQUOT: "the disk quota is used up for",
    errno.EFBIG: "the file system allows no file as large as",
    errno.EROFS: "the file system is read-only at",
    errno.EACCES: "no permission to write",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 1 our fault, 2 wrong input, 3 stopped with the state saved."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage(), flush=True)
            return EXIT_DONE if arguments else EXIT_INPUT
        if arguments[0] == "--version":
            print(f"riffusion-train {__version__}", flush=True)
            return EXIT_DONE
        verb, *rest = arguments
        if verb not in VERBS:
            print(f"riffusion: unknown verb '{verb}'; choose from: {', '.join(VERBS)}", file=sys.stderr)
            return EXIT_INPUT
        return _run(verb, rest)
    except BrokenPipeError:
        # Whoever read our output has had enough, as in `riffusion train --help | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _run(verb: str, arguments: list[str]) -> int:
    module, function = ENTRY_POINTS.get(verb, (verb, "main"))
    try:
        getattr(importlib.import_module(f"riffusion_train.cli.{module}"), function)(arguments)
    except InputError as error:
        print(f"riffusion {verb}: {error}", file=sys.stderr)
        return EXIT_INPUT
    except StoppedError as error:
        print(f"riffusion {verb}: stopped: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print(f"riffusion {verb}: interrupted; run the same command again to go on where it can", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        raise  # to `main`, which has output of its own
    except Exception as error:
        problem = _OUTPUT_ERRORS.get(_error_number(error))
        if problem is None:
            traceback.print_exc()
            return EXIT_FAULT
        what = f"{problem} {getattr(error, 'filename', None) or 'the output'}"
        print(f"riffusion {verb}: {what}; fix that and run the same command again", file=sys.stderr)
        return EXIT_INPUT
    return EXIT_DONE


def _error_number(error: Exception) -> int | None:
    """Return the system's error number; safetensors, which is written in Rust, has it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None


def _usage() -> str:
    rows = "\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items())
    return f"usage: riffusion VERB [key=value …]\n\n{rows}\n\nriffusion VERB --help lists the keys of a verb."
