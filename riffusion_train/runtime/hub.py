"""The Hugging Face hub: what its names look like, and the upload of a finished folder, a model or a dataset."""

from collections.abc import Sequence
from pathlib import Path

from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.pretrained import model_place


def check_source(source: str) -> None:
    """Check that a model comes with the package, is a file or folder, or can be the id of one on the hub; nothing is read.

    Raises:
        InputError: If it is none of these.
    """
    if not looks_like_hub_id(source) and not Path(model_place(source)).expanduser().exists():
        raise InputError(f"{source}: no such file or folder, and not a hub id (user/name)")


def looks_like_hub_id(source: str) -> bool:
    """Whether a text has the form of a hub id, `user/name`, and not that of a file or folder."""
    is_path = source.startswith((".", "~", "/")) or source.endswith((".safetensors", ".ckpt"))
    return source.count("/") == 1 and not is_path


def check_repository(repository: str) -> None:
    """Check the name of a repository before anything is written.

    Raises:
        InputError: If it is not `user/name`.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"push_to_hub={repository}: {str(error).splitlines()[0]}") from None
    if repository.count("/") != 1:
        raise InputError(f"push_to_hub={repository}: not a repository; write user/name")


def push(
    folder: Path,
    repository: str,
    *,
    private: bool,
    kind: str = "model",
    replaces: Sequence[str] = (),
    leaves_out: Sequence[str] = (),
    stays: str = "the exported files stay, push again with hf upload",
    endpoint: str | None = None,
) -> str:
    """Upload the files of a folder, except hidden ones, as one commit; a repository that does not exist is made.

    Args:
        folder: The folder.
        repository: `user/name`.
        private: Whether a new repository is private.
        kind: `model` or `dataset`.
        replaces: Patterns of files to delete from the repository if the folder no longer has them.
        leaves_out: Patterns of files that are not uploaded.
        stays: What is left after a failure and how to continue, for the message.
        endpoint: The hub's address; None takes `HF_ENDPOINT` or huggingface.co.

    Returns:
        The address of the repository.

    Raises:
        InputError: If the hub cannot be reached or refuses; what was written stays on disk.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint)
    try:
        address = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message=f"Upload the {kind} with riffusion-train",
            ignore_patterns=[".*", *leaves_out],
            delete_patterns=list(replaces) or None,
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"push_to_hub={repository}: {reason}; {stays}") from None
    return str(address)
