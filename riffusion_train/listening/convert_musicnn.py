"""Convert musicnn's published weights: `python -m riffusion_train.listening.convert_musicnn musicnn-0.1.0-py3-none-any.whl`.

The wheel (`pip download --no-deps musicnn==0.1.0`) holds TensorFlow 1 checkpoints: a table of names, in the
format of LevelDB's tables, and a file with the numbers of all arrays. Both are read here without TensorFlow. The results are
the files in `weights/`, which the package ships: only who wants to check them needs this.
"""

import hashlib
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from riffusion_train.listening.embedder import Weights
from riffusion_train.runtime.errors import EXIT_DONE, EXIT_INPUT, InputError
from riffusion_train.runtime.files import write_atomically

WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
_FOLDERS = {Weights.mtt: "musicnn/MTT_musicnn", Weights.msd: "musicnn/MSD_musicnn"}
_LICENCE = "musicnn-0.1.0.dist-info/LICENSE.md"
_TABLE_END = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES = 48
_FLOAT32 = 1
"""TensorFlow's number of the type."""
_EPSILON = 1e-3
"""Of TensorFlow's batch norm."""
_FRONT, _MIDDLE = 5, 3
"""Numbers of convolutions: over frequency, and over time."""

Array = npt.NDArray[np.float32]


def read_checkpoint(index: bytes, data: bytes) -> dict[str, Array]:
    """Return the float32 arrays of a TensorFlow checkpoint by name.

    Args:
        index: The content of its file `.index`.
        data: The content of its file `.data-00000-of-00001`.

    Raises:
        ValueError: If it is no checkpoint of this form.
    """
    arrays = {}
    for name, entry in read_table(index):
        if not name:  # the header of the checkpoint
            continue
        fields = dict(_fields(entry))
        if fields.get(1) != _FLOAT32:
            continue
        # TensorShapeProto: one field 2 for each dimension, whose own field 1 is the size.
        shape = [
            int(dict(_fields(_bytes(dim))).get(1, 0)) for key, dim in _fields(_bytes(fields.get(2, b""))) if key == 2
        ]
        offset, size = int(fields.get(4, 0)), int(fields.get(5, 0))
        arrays[name.decode()] = np.frombuffer(data[offset : offset + size], "<f4").reshape(shape)
    return arrays


def read_table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table in LevelDB's format, without compression, in order.

    Raises:
        ValueError: If it is no such table.
    """
    footer = table[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_TABLE_END):
        raise ValueError("not a table: its last eight bytes are others")
    position = 0
    handle = []  # offset and size of the meta block, which is not used, and of the index block
    for _ in range(4):
        number, position = _varint(footer, position)
        handle.append(number)
    for _, block in _block(table, *handle[2:]):
        offset, position = _varint(block, 0)
        size, _ = _varint(block, position)
        yield from _block(table, offset, size)


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block: each key shares a number of bytes with the one before."""
    if table[offset + size] != 0:
        raise ValueError("a compressed table is not supported")
    block = table[offset : offset + size]
    num_restarts = int.from_bytes(block[-4:], "little")
    end, position, key = len(block) - 4 - 4 * num_restarts, 0, b""
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + length]
        position += length


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protocol buffer: number, and value as an integer or as bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"not a protocol buffer: a field of kind {kind}")
        yield tag >> 3, message[position : position + length]
        position += length


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("not an entry of a checkpoint: its shape is a number")
    return value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of variable length, seven bits a byte, and the position after it."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position


def convert(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return the state of a `MusicTagger` from the arrays of its checkpoint; those of the optimizer are left out.

    A batch norm becomes a scale and an offset. The maximum over frequency follows it in the published graph and precedes it in
    ours, so a convolution whose norm has a negative scale is negated: the maximum of -x is minus the minimum of x.
    """
    exact = {name.removeprefix("model/"): array.astype(np.float64) for name, array in arrays.items()}
    state: dict[str, npt.NDArray[np.float64]] = {}

    def norm(target: str, number: int) -> npt.NDArray[np.float64]:
        source = _numbered("batch_normalization", number)
        gamma, beta, mean, variance = (
            exact[f"{source}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + _EPSILON)
        state[f"{target}.scale"], state[f"{target}.offset"] = scale, beta - mean * scale
        return scale

    norm("input_norm", 0)
    for index in range(_FRONT + _MIDDLE):
        source = _numbered("conv2d", index)
        kernel = exact[f"{source}/kernel"].transpose(3, 2, 0, 1)  # (out, 1, frames, bands)
        bias = exact[f"{source}/bias"]
        if index < _FRONT:
            block = f"front.{index}"
            sign = np.where(norm(f"{block}.norm", index + 1) < 0, -1.0, 1.0)
            kernel, bias = kernel * sign[:, None, None, None], bias * sign
            state[f"{block}.sign"] = sign
        else:
            block = f"middle.{index - _FRONT}"
            norm(f"{block}.norm", index + 1)
            kernel = kernel[:, 0].transpose(0, 2, 1)  # (out, channels, frames)
        state[f"{block}.conv.weight"], state[f"{block}.conv.bias"] = kernel, bias
    norm("pooled_norm", _FRONT + _MIDDLE + 1)
    norm("dense_norm", _FRONT + _MIDDLE + 2)
    for target, source in (("dense", "dense"), ("tags", "dense_1")):
        state[f"{target}.weight"], state[f"{target}.bias"] = exact[f"{source}/kernel"].T, exact[f"{source}/bias"]
    return {name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in state.items()}


def _numbered(name: str, number: int) -> str:
    """Return TensorFlow's name of the n-th layer of a kind."""
    return f"{name}_{number}" if number else name


def write_weights(wheel: Path, folder: Path) -> None:
    """Write the two taggers and their licence from musicnn's wheel into a folder.

    Raises:
        InputError: If it is not that wheel.
    """
    from safetensors.torch import save

    if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise InputError(f"{wheel}: not musicnn 0.1.0; get it with: pip download --no-deps musicnn==0.1.0")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for weights, source in _FOLDERS.items():
            index, data = (archive.read(f"{source}/{name}") for name in (".index", ".data-00000-of-00001"))
            # One entry only: safetensors writes several in random order.
            metadata = {"source": f"musicnn 0.1.0 (ISC licence), {source}"}
            content = save(convert(read_checkpoint(index, data)), metadata)
            write_atomically(folder / f"{weights.value}.safetensors", content)
        write_atomically(folder / "LICENSE", archive.read(_LICENCE))


def main(argv: Sequence[str]) -> int:
    """Convert the wheel that is named. Returns the exit code: 0 done, 2 wrong input."""
    try:
        if len(argv) != 1:
            raise InputError("give musicnn's wheel: pip download --no-deps musicnn==0.1.0")
        write_weights(Path(argv[0]), Path(__file__).parent / "weights")
    except InputError as error:
        print(f"convert_musicnn: {error}", file=sys.stderr)
        return EXIT_INPUT
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
