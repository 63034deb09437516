"""Upload an exported model to the Hugging Face hub."""

from pathlib import Path

from riffusion_train.config.errors import InputError


def check_repository(repository: str) -> None:
    """Refuse a name that the hub would refuse, before anything is written.

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


def push(folder: Path, repository: str, *, private: bool, endpoint: str | None = None) -> str:
    """Upload the files of a folder as one commit; the repository is made where it is new.

    Args:
        folder: The folder.
        repository: `user/name`.
        private: Whether a new repository is private.
        endpoint: The hub's address; None takes `HF_ENDPOINT` or huggingface.co.

    Returns:
        The address of the repository.

    Raises:
        InputError: If the hub cannot be reached or refuses; what was exported stays on disk.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint)
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload the model with riffusion-train"
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"push_to_hub={repository}: {reason}; the exported files stay, push again with hf upload"
        ) from None
    return str(made)
