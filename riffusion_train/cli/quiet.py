"""Keep the libraries' advice off the terminal, so that what is printed there is ours."""

import warnings


def quieten_libraries() -> None:
    """Show errors only from transformers and diffusers; hide their deprecation notices."""
    import diffusers.utils.logging
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
