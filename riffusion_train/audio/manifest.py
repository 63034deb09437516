"""C2PA manifests: a mark that is signed with the user's certificate, so that a change of the file shows. Extra `c2pa`."""

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.audio.marking import SOURCE_TYPE, Mark
from riffusion_train.runtime import __version__
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import written_beside

SIGNED_SUFFIXES = (".wav", ".flac", ".mp3", ".png")
"""Formats of ours that can hold a manifest; Ogg cannot (C2PA 2.2, appendix A)."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What manifests are signed with. It is checked when it is made, so that no clip is made for one that cannot be used.

    Attributes:
        chain: The certificates, the signer's own first, as PEM.
        key: The signer's private key, as PEM in PKCS #8.
        timestamp_url: A service that confirms the time of signing (RFC 3161); None asks none, and needs no network.

    Raises:
        InputError: If the library is not installed, or the files cannot be used.
    """

    chain: Path
    key: Path
    timestamp_url: str | None = None

    def __post_init__(self) -> None:
        _require_library()
        for file in (self.chain, self.key):
            if not file.is_file():
                raise InputError(f"{file}: no such file; a certificate and its key are two PEM files")
        self.signer().close()

    def signer(self) -> Any:
        """Return the library's signer."""
        import c2pa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(self.key.read_bytes(), None)
            info = c2pa.C2paSignerInfo(
                _algorithm(private),
                self.chain.read_bytes(),
                self.key.read_bytes(),
                None if self.timestamp_url is None else self.timestamp_url.encode(),
            )
            return c2pa.Signer.from_info(info)
        except (c2pa.C2paError, ValueError, TypeError) as error:
            raise InputError(f"{self.chain}, {self.key}: cannot sign C2PA manifests: {_line(error)}") from None


def check_signed_format(suffix: str) -> None:
    """Refuse a format that cannot hold a manifest.

    Raises:
        InputError: If it cannot.
    """
    if suffix not in SIGNED_SUFFIXES:
        raise InputError(
            f"format={suffix.removeprefix('.')}: cannot hold a C2PA manifest; choose from: wav, flac, mp3, or leave out "
            "certificate="
        )


def sign_files(paths: Sequence[Path], mark: Mark, certificate: Certificate) -> None:
    """Put a signed manifest into the files of a clip, each replaced by a whole new file; its JSON stays as it is.

    Raises:
        InputError: If the library refuses, for example because the certificate does not fit C2PA's profile.
    """
    import c2pa

    for path in paths:
        if path.suffix not in SIGNED_SUFFIXES:
            continue
        signer = certificate.signer()
        try:
            with (
                written_beside(path) as partial,
                c2pa.Builder(json.dumps(_manifest(path, mark))) as builder,
                path.open("rb") as source,
                partial.open("w+b") as target,
            ):
                builder.sign(signer, path.suffix.removeprefix("."), source, target)
        except c2pa.C2paError as error:
            raise InputError(f"{path}: cannot be signed with {certificate.chain}: {_line(error)}") from None
        finally:
            signer.close()


def read_manifest(path: Path) -> str | None:
    """Return in a few words what the manifest of a file says; None if it has none, or the library is not installed."""
    if importlib.util.find_spec("c2pa") is None:
        return None
    import c2pa

    try:
        reader = c2pa.Reader.try_create(path)
        if reader is None:
            return None
        with reader:
            data = json.loads(reader.json())
    except c2pa.C2paError as error:
        return f"cannot be read: {_line(error)}"
    manifest = data["manifests"][data["active_manifest"]]
    signer = manifest.get("signature_info", {}).get("issuer") or "an unnamed signer"
    codes = sorted({status["code"] for status in data.get("validation_status", [])})
    return f"{str(data.get('validation_state', 'unknown')).lower()}, signed by {signer}" + "".join(
        f"; {code}" for code in codes
    )


def _manifest(path: Path, mark: Mark) -> dict[str, Any]:
    agent = {"name": "riffusion-train", "version": __version__}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent}
    identity = {
        "model": mark.model,
        "model_fingerprint": mark.model_fingerprint,
        "dataset_fingerprint": mark.dataset_fingerprint,
    }
    return {
        "title": path.name,
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": "org.riffusion-train.model", "data": identity},
        ],
    }


def _algorithm(private: Any) -> str:
    """Return C2PA's name of the signature that a key makes."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    names = {256: "es256", 384: "es384", 521: "es512"}
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.key_size in names:
        return names[private.key_size]
    raise ValueError("its key is none of Ed25519, RSA or NIST P-256, P-384, P-521")


def _require_library() -> None:
    if importlib.util.find_spec("c2pa") is None:
        raise InputError('certificate=: C2PA manifests need another package: pip install "riffusion-train[c2pa]"')


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
