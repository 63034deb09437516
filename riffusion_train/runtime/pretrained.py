"""The models that come with the package: `laptop` names one wherever a model can be named."""

from pathlib import Path

from riffusion_train.runtime.errors import InputError

DEFAULT_MODEL = "laptop"
"""The model that commands take where none is named."""

MODELS = (DEFAULT_MODEL,)
"""The names. As with presets, a name comes before a file or folder of that name, which is `./laptop`."""

FOLDER = Path(__file__).resolve().parent.parent / "pretrained"
"""Where they are: a folder for each, as `riffusion export` writes it."""

_INDEX_FILE = "model_index.json"


def has_pretrained(name: str = DEFAULT_MODEL) -> bool:
    """Whether the weights of a model that comes with the package are here; a checkout of the source may lack them."""
    return (FOLDER / name / _INDEX_FILE).is_file()


def model_place(source: str | Path) -> str:
    """Return where a model is: the folder of a model that comes with the package, if `source` is its name; else `source`.

    Records and cards keep the name, which means the same on every machine.

    Args:
        source: A name, or a folder, a file or a hub id.

    Raises:
        InputError: If it is the name of a model whose weights are not here.
    """
    name = str(source)
    if name not in MODELS:
        return name
    if not has_pretrained(name):
        raise InputError(
            f"{name}: the weights of this model are not in this installation ({FOLDER / name}); name another model, or "
            f"./{name} for a folder of that name"
        )
    return str(FOLDER / name)
