"""Mark files as synthetic: IPTC's digital source type and the model's identity, written into sounds and images and read again.

The mark is an XMP packet (ISO 16684-1) where a format has a place for one: a text of PNG, an APP1 segment of JPEG, the chunk
`_PMX` of WAV, a `PRIV` frame of MP3 (XMP specification, part 3). FLAC, Ogg Vorbis and Opus have only comments by name, so there
it is the comment `XMP`. Because few programs that handle sound read XMP, the source type also stands by itself: as the comment
`DIGITALSOURCETYPE`, in MP3 as a `TXXX` frame of that name, and in WAV in the description of `bext` (EBU Tech 3285).

A C2PA manifest (extra `c2pa`) says the same, signed with the user's certificate, so that a change of the file shows.
"""

import dataclasses
import importlib.util
import io
import json
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import quoteattr

import PIL.Image

from riffusion_train.runtime import __version__
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import written_beside

# --- the mark --------------------------------------------------------------------------------------------------------

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for what a model made that was trained on samples."""
XMP_TEXT = "XML:com.adobe.xmp"
"""Name of the PNG text that holds an XMP packet."""
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
"""Suffixes of the sounds that can be marked and read."""
IMAGES = (".png", ".jpg", ".jpeg")
"""Suffixes of the images that can be marked and read."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_OURS = "urn:riffusion-train:model:1#"
_PACKET_ID = "W5M0MpCehiHzreSzNTczkc9d"
_TYPE_TAG = "DIGITALSOURCETYPE"
_BEXT_BYTES = 602
_BEXT_DESCRIPTION_BYTES = 256
_LARGEST_BYTES = 1 << 20
"""Of the packets and chunks that are read; others are damage."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """That a sound or an image was made by a model, and by which."""

    model: str
    """The name of the model, without the folders of the machine it was used on."""
    model_fingerprint: str
    """Hash of the weights of its UNet."""
    dataset_fingerprint: str | None = None
    """Hash of the dataset that it was trained on; None where the model does not say."""

    @classmethod
    def of(cls, source: str, model_fingerprint: str, dataset_fingerprint: str | None) -> "Mark":
        """Return the mark of a model from a path or a hub id; of the final model of a run, the name holds that of the run."""
        path = Path(source)
        name = f"{path.parent.name}/{path.name}" if path.name == "final" and path.parent.name else path.name
        return cls(name, model_fingerprint, dataset_fingerprint)

    def xmp(self) -> str:
        """Return the mark as an XMP packet: IPTC's properties for media that are made by a model, and ours."""
        attributes = {
            "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
            "Iptc4xmpExt:AISystemUsed": f"riffusion-train, model {self.model}",
            "Iptc4xmpExt:AISystemVersionUsed": self.model_fingerprint,
            "xmp:CreatorTool": f"riffusion-train {__version__}",
            "riffusion:model": self.model,
            "riffusion:modelFingerprint": self.model_fingerprint,
        }
        if self.dataset_fingerprint is not None:
            attributes["riffusion:datasetFingerprint"] = self.dataset_fingerprint
        lines = "\n  ".join(f"{name}={quoteattr(_printable(text))}" for name, text in attributes.items())
        return (
            f'<?xpacket begin="\ufeff" id="{_PACKET_ID}"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">\n'
            f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}" xmlns:xmp="{_XMP}" xmlns:riffusion="{_OURS}"\n'
            f"  {lines}/>\n"
            '</rdf:RDF></x:xmpmeta>\n<?xpacket end="r"?>'
        )

    @classmethod
    def from_xmp(cls, packet: str) -> "Mark | None":
        """Return the mark that an XMP packet holds; None if it holds none, or cannot be read."""
        if "<!" in packet:  # a document type, whose entities could grow without bound; XMP has none
            return None
        try:
            root = ElementTree.fromstring(packet.strip("\ufeff\0 \n"))
        except (ElementTree.ParseError, ValueError):
            return None
        found: dict[str, str] = {}
        for described in root.iter(f"{{{_RDF}}}Description"):
            # Programs that edit metadata may turn attributes into elements.
            found |= described.attrib | {element.tag: (element.text or "").strip() for element in described}
        model, weights = (found.get(f"{{{_OURS}}}{name}") for name in ("model", "modelFingerprint"))
        if found.get(f"{{{_IPTC}}}DigitalSourceType") != SOURCE_TYPE or model is None or weights is None:
            return None
        return cls(model, weights, found.get(f"{{{_OURS}}}datasetFingerprint"))

    def description(self) -> str:
        """Return the mark in a few words, for places without XMP."""
        dataset = f", dataset {self.dataset_fingerprint}" if self.dataset_fingerprint else ""
        return f"{SOURCE_TYPE}; model {self.model_fingerprint}{dataset}; {_printable(self.model)}"


def mark_sound(path: Path, suffix: str, mark: Mark) -> None:
    """Put a mark into a finished sound file, before tags are: FFmpeg takes the last of several comments for the comment.

    Args:
        path: The file, which is changed in place.
        suffix: The format, of `SOUNDS`; the file may have another name.
        mark: The mark.
    """
    writers: dict[str, Callable[[Path, Mark], None]] = {".wav": _mark_wav, ".mp3": _mark_mp3}
    if suffix in writers:
        writers[suffix](path, mark)
        return
    comments = _open_comments(path, suffix)
    if comments.tags is None:
        comments.add_tags()
    comments.tags["XMP"] = mark.xmp()
    comments.tags[_TYPE_TAG] = SOURCE_TYPE
    comments.save()


def read_mark(path: Path) -> Mark | None:
    """Return the mark of a sound or an image; None if it has none.

    Raises:
        InputError: If the file is missing, of another kind, or cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in (*SOUNDS, *IMAGES):
        raise InputError(f"{path}: cannot hold a mark; choose from: {', '.join((*SOUNDS, *IMAGES))}")
    try:
        packet = _read_packet(path, suffix)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'cannot be read as an image'}") from None
    return None if packet is None else Mark.from_xmp(packet)


def _read_packet(path: Path, suffix: str) -> str | None:
    if suffix in IMAGES:
        with PIL.Image.open(path) as image:
            image.load()  # texts may follow the pixels
            text = image.info.get(XMP_TEXT) or image.info.get("xmp")
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if suffix == ".wav":
        with path.open("rb") as file:
            chunks = (content for kind, content in _riff_chunks(file, path) if kind == b"_PMX")
            return next((content.decode("utf-8", "replace") for content in chunks), None)
    import mutagen

    path.open("rb").close()  # an error of the system, not of mutagen
    try:
        if suffix == ".mp3":
            from mutagen.id3 import ID3, ID3NoHeaderError

            try:
                tag = ID3(path)
            except ID3NoHeaderError:
                return None
            packets = [one.data.decode("utf-8", "replace") for one in tag.getall("PRIV") if one.owner == "XMP"]
            packets += [str(one) for one in tag.getall("TXXX:XMP")]  # what FFmpeg makes of the comment `XMP`
            return next(iter(packets), None)
        tags = _open_comments(path, suffix).tags
    except mutagen.MutagenError as error:
        raise InputError(f"{path}: cannot be read as {suffix.removeprefix('.')}: {error}") from None
    return tags["XMP"][0] if tags is not None and "XMP" in tags else None


def _open_comments(path: Path, suffix: str):  # type: ignore[no-untyped-def] # mutagen has no types
    """Return mutagen's view of a FLAC, Ogg Vorbis or Opus file."""
    from mutagen.flac import FLAC
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis

    return {".flac": FLAC, ".ogg": OggVorbis, ".opus": OggOpus}[suffix](path)


def _mark_wav(path: Path, mark: Mark) -> None:
    """Add `bext` and `_PMX` to the end of a WAV file. `bext` has no date, so that equal clips are equal files."""
    description = mark.description().encode("ascii", "replace")[: _BEXT_DESCRIPTION_BYTES - 1]
    bext = description.ljust(_BEXT_DESCRIPTION_BYTES, b"\0") + b"riffusion-train".ljust(32, b"\0")
    bext = bext.ljust(_BEXT_BYTES, b"\0")
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.write(b"\0" * (end % 2))
        for kind, content in ((b"bext", bext), (b"_PMX", mark.xmp().encode())):
            file.write(kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2))
        total = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", min(total - 8, 0xFFFFFFFF)))


def _riff_chunks(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and content of every chunk of a WAV file that could be metadata; the sound is passed over.

    Raises:
        InputError: If it is no WAV file.
    """
    begin = file.read(12)
    if begin[:4] != b"RIFF" or begin[8:] != b"WAVE":
        raise InputError(f"{path}: is not a WAV file")
    while len(header := file.read(8)) == 8:
        kind, size = header[:4], struct.unpack("<I", header[4:])[0]
        if kind == b"data" or size > _LARGEST_BYTES:
            file.seek(size + size % 2, 1)
            continue
        yield kind, file.read(size)
        file.seek(size % 2, 1)


def _mark_mp3(path: Path, mark: Mark) -> None:
    frames = id3_frame(b"PRIV", b"XMP\0" + mark.xmp().encode())
    add_id3_frames(path, frames + id3_frame(b"TXXX", b"\x03" + f"{_TYPE_TAG}\0{SOURCE_TYPE}".encode()))


def add_id3_frames(path: Path, frames: bytes) -> None:
    """Put frames first into the ID3v2.4 tag of an MP3 file, or into a new one.

    Mutagen would rewrite the other frames, and drop dates that are not timestamps.
    """
    data = path.read_bytes()
    old = _from_sync_safe(data[6:10]) if data[:4] == b"ID3\x04" else None
    others, sound = (b"", data) if old is None else (data[10 : 10 + old], data[10 + old :])
    path.write_bytes(b"ID3\x04\0\0" + _sync_safe(len(frames) + len(others)) + frames + others + sound)


def id3_frame(name: bytes, body: bytes) -> bytes:
    """Return a frame of an ID3v2.4 tag."""
    return name + _sync_safe(len(body)) + b"\0\0" + body


def _sync_safe(size: int) -> bytes:
    """Return a size in four bytes of seven bits, as ID3v2.4 writes it."""
    return bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))


def _from_sync_safe(data: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(data, (21, 14, 7, 0), strict=True))


def encode_image(image: PIL.Image.Image, kind: str, mark: Mark | None, **options: int) -> bytes:
    """Return an image as a file with a mark.

    Args:
        image: The image.
        kind: `PNG` or `JPEG`.
        mark: The mark; None marks nothing.
        options: Of Pillow's writer.
    """
    from PIL.PngImagePlugin import PngInfo

    out, more = io.BytesIO(), dict[str, object](options)
    if mark is not None and kind == "PNG":
        texts = PngInfo()
        texts.add_itxt(XMP_TEXT, mark.xmp())
        more["pnginfo"] = texts
    elif mark is not None:
        more["xmp"] = mark.xmp().encode()
    image.save(out, kind, **more)
    return out.getvalue()


def _printable(text: str) -> str:
    """Return a text without the control characters that XML cannot hold."""
    return "".join(one if one.isprintable() else " " for one in text)


# --- the signed mark -------------------------------------------------------------------------------------------------

_SIGNED_SUFFIXES = (".wav", ".flac", ".mp3", ".png")
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
    if suffix not in _SIGNED_SUFFIXES:
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
        if path.suffix not in _SIGNED_SUFFIXES:
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
