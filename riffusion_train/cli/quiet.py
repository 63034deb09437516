"""Keep the libraries' advice off the terminal, so that what is printed there is ours."""

import logging
import warnings


def quieten_libraries() -> None:
    """Show errors only from transformers, diffusers and bitsandbytes; hide their deprecation notices."""
    # On its import, bitsandbytes asks for a package that is of use to 4-bit weights only.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import diffusers.utils.logging
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
