"""The reader of TensorFlow's checkpoints, on tables made here, and the folding of batch norms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from riffusion_train.listening import convert_musicnn
from riffusion_train.listening.convert_musicnn import convert, read_checkpoint, read_table, write_weights
from riffusion_train.listening.embedder import MusicTagger
from riffusion_train.runtime.errors import EXIT_INPUT, InputError


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def block(entries):
    """Return a block of a table, with shared prefixes and one restart, and the byte that says it is not compressed."""
    out, last = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + (0).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"\0" + b"crc."


def table(*blocks):
    content, index = b"", []
    for entries in blocks:
        encoded = block(entries)
        index.append((entries[-1][0], varint(len(content)) + varint(len(encoded) - 5)))
        content += encoded
    handle = varint(0) + varint(0) + varint(len(content)) + varint(len(block(index)) - 5)
    return content + block(index) + handle.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def entry(kind, shape, offset, size):
    dims = b"".join(b"\x12" + varint(len(dim)) + dim for dim in (b"\x08" + varint(n) for n in shape))
    where = b"\x20" + varint(offset) + b"\x28" + varint(size)
    return b"\x08" + varint(kind) + b"\x12" + varint(len(dims)) + dims + where + b"\x35crc."


def test_arrays_are_read_from_a_checkpoint_of_two_blocks():
    numbers = np.arange(300, dtype="<f4")
    index = table(
        [
            (b"", b"\x08\x01"),
            (b"model/a/bias", entry(1, [200], 0, 800)),
            (b"model/a/kernel", entry(1, [5, 20], 800, 400)),
        ],
        [(b"model/step", entry(9, [], 1200, 8))],
    )
    arrays = read_checkpoint(index, numbers.tobytes() + bytes(8))
    assert set(arrays) == {"model/a/bias", "model/a/kernel"}  # the step is a whole number
    assert (arrays["model/a/bias"] == numbers[:200]).all()
    assert (arrays["model/a/kernel"] == numbers[200:].reshape(5, 20)).all()


def test_other_files_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="not a table"):
        list(read_table(b"something else that is quite long, longer than a footer"))
    wheel = tmp_path / "musicnn-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"not musicnn 0\.1\.0; get it with: pip download"):
        write_weights(wheel, tmp_path / "out")
    assert convert_musicnn.main([]) == EXIT_INPUT and not (tmp_path / "out").exists()
    assert "give musicnn's wheel" in capsys.readouterr().err


def random_arrays():
    rng = np.random.default_rng(0)
    shapes = {"dense/kernel": (1506, 200), "dense/bias": (200,), "dense_1/kernel": (200, 50), "dense_1/bias": (50,)}
    convolutions = [
        (7, 38, 204),
        (7, 67, 204),
        (128, 1, 51),
        (64, 1, 51),
        (32, 1, 51),
        (7, 561, 64),
        (7, 64, 64),
        (7, 64, 64),
    ]
    for index, (frames, bands, out) in enumerate(convolutions):
        name = f"conv2d_{index}" if index else "conv2d"
        shapes |= {f"{name}/kernel": (frames, bands, 1, out), f"{name}/bias": (out,)}
    arrays = {name: (rng.standard_normal(shape) * 0.05).astype(np.float32) for name, shape in shapes.items()}
    for index, size in enumerate([1, *(out for *_, out in convolutions), 1506, 200]):
        name = f"batch_normalization_{index}" if index else "batch_normalization"
        for part in ("gamma", "beta", "moving_mean"):
            arrays[f"{name}/{part}"] = rng.standard_normal(size).astype(np.float32)
        arrays[f"{name}/moving_variance"] = rng.uniform(0.5, 2, size).astype(np.float32)
    return arrays


def published(arrays, image):
    """Return embedding and scores as the published graph defines them: batch norm after ReLU, then pooling."""
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def norm(x, index, channel=1):
        name = f"batch_normalization_{index}" if index else "batch_normalization"
        gamma, beta, mean, variance = (
            weights[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return F.batch_norm(x.movedim(channel, 1), mean, variance, gamma, beta, eps=1e-3).movedim(1, channel)

    def convolve(x, index):
        name = f"conv2d_{index}" if index else "conv2d"
        kernel = weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        frames = kernel.shape[2]
        padded = F.pad(x, (0, 0, (frames - 1) // 2, frames // 2))
        return norm(F.relu(F.conv2d(padded, kernel, weights[f"{name}/bias"])), index + 1)

    x = norm(image[:, None], 0)
    features = [torch.cat([convolve(x, index).amax(3) for index in range(5)], 1).transpose(1, 2)[:, None]]
    for index in (5, 6, 7):  # (B, 1, T, C) in, (B, 64, T, 1) out
        out = convolve(features[-1], index)[:, :, :, 0].transpose(1, 2)[:, None]
        features.append(out + features[-1] if index > 5 else out)
    whole = torch.cat(features, 3)[:, 0]
    pooled = torch.stack([whole.amax(1), whole.mean(1)], 2).flatten(1)
    dense = norm(F.relu(norm(pooled, 9) @ weights["dense/kernel"] + weights["dense/bias"]), 10)
    return dense, torch.sigmoid(dense @ weights["dense_1/kernel"] + weights["dense_1/bias"])


def test_the_converted_network_computes_what_the_published_graph_does():
    arrays = random_arrays()
    tagger = MusicTagger().eval()
    tagger.load_state_dict(convert({f"model/{name}": array for name, array in arrays.items()}))
    image = torch.randn(2, 187, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        embedding, scores = tagger(image)
        expected, expected_scores = published(arrays, image)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-4)
    assert embedding.std() > 0.1
