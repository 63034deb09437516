"""C2PA manifests: signed with a certificate that is made here, read by the library, broken by a change."""

import datetime
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from riffusion_train.audio.image_file import png_bytes
from riffusion_train.audio.marking import Certificate, Mark, check_signed_format, read_manifest, read_mark, sign_files
from riffusion_train.audio.write import write_audio
from riffusion_train.runtime.errors import InputError

MARK = Mark("laptop", "0123", "fe98")
has_library = pytest.mark.skipif(importlib.util.find_spec("c2pa") is None, reason="needs the extra c2pa")


def test_without_the_library_a_certificate_is_refused_with_the_package_to_install(tmp_path: Path) -> None:
    expected = "no such file" if importlib.util.find_spec("c2pa") else r"riffusion-train\[c2pa\]"
    with pytest.raises(InputError, match=expected):
        Certificate(tmp_path / "chain.pem", tmp_path / "key.pem")
    with pytest.raises(InputError, match="choose from: wav, flac, mp3"):
        check_signed_format(".ogg")
    check_signed_format(".mp3")


@has_library
def test_signed_files_are_valid_keep_their_mark_and_show_a_change(tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path)
    wav = 0.3 * np.sin(np.arange(48000) / 20, dtype=np.float32)[None]
    files = [tmp_path / f"a.{kind}" for kind in ("wav", "flac", "mp3")]
    for file in files:
        write_audio(file, wav, 48000, {"comment": "the settings"}, mark=MARK)
    image = tmp_path / "a.png"
    image.write_bytes(png_bytes(np.full((64, 64), 90, np.uint8), {"XML:com.adobe.xmp": MARK.xmp()}))
    assert [read_manifest(file) for file in (*files, image)] == [None] * 4
    sign_files([*files, image], MARK, certificate)
    for file in (*files, image):
        said = read_manifest(file)
        assert said is not None and said.startswith("valid, signed by Test") and "untrusted" in said
        assert read_mark(file) == MARK
    data = bytearray(files[0].read_bytes())
    data[data.index(b"data") + 5000] ^= 1
    files[0].write_bytes(data)
    assert "invalid" in str(read_manifest(files[0]))


@has_library
def test_a_certificate_that_cannot_sign_is_refused_in_one_line(tmp_path: Path) -> None:
    good = write_certificate(tmp_path)
    with pytest.raises(InputError, match="cannot sign"):
        Certificate(good.chain, good.chain)
    good.chain.write_text("no certificate")
    with pytest.raises(InputError):
        sign_files([], MARK, Certificate(good.chain, good.key))


def write_certificate(folder: Path) -> Certificate:
    """Write a certificate with the extensions of C2PA's profile, signed by one of our own, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def name(text: str) -> x509.Name:
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text), organization])

    def make(subject: str, own: Any, *, is_root: bool) -> x509.Certificate:
        usage = {"digital_signature": not is_root, "key_cert_sign": is_root, "crl_sign": is_root}
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage |= dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
        builder = (
            x509.CertificateBuilder(name("root"), name(subject), own.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
            .add_extension(issuer, critical=False)
        )
        if not is_root:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        return builder.sign(root_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    chain = [make("leaf", key, is_root=False), make("root", root_key, is_root=True)]
    (folder / "chain.pem").write_bytes(b"".join(one.public_bytes(pem) for one in chain))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return Certificate(folder / "chain.pem", folder / "key.pem")
