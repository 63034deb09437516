"""The tensor names of Stable Diffusion 1.5, derived from the constructors of the original code and not from ours.

Follows `openaimodel.UNetModel` with v1-inference.yaml and `model.Encoder` and `Decoder` of CompVis/stable-diffusion, and CLIP
ViT-L/14 of transformers 4.
"""

from collections.abc import Iterator

NUM_UNET, NUM_VAE, NUM_CLIP = 686, 248, 197


def sd15_keys() -> dict[str, list[str]]:
    """Return the tensor names of the three networks."""
    return {
        "unet": ["model.diffusion_model." + key for key in _unet()],
        "vae": ["first_stage_model." + key for key in _vae()],
        "text_encoder": ["cond_stage_model.transformer.text_model." + key for key in _clip()],
    }


def _weight_and_bias(*names: str) -> Iterator[str]:
    for name in names:
        yield from (f"{name}.weight", f"{name}.bias")


def _unet(width: int = 320, mult: tuple[int, ...] = (1, 2, 4, 4), res_blocks: int = 2) -> Iterator[str]:
    attention_at = {1, 2, 4}
    yield from _weight_and_bias("time_embed.0", "time_embed.2", "input_blocks.0.0")
    channels, block_index, rate, skips = width, 1, 1, [width]
    for level, factor in enumerate(mult):
        for _ in range(res_blocks):
            yield from _res_block(f"input_blocks.{block_index}.0", channels, factor * width)
            channels = factor * width
            if rate in attention_at:
                yield from _transformer(f"input_blocks.{block_index}.1")
            skips.append(channels)
            block_index += 1
        if level != len(mult) - 1:
            yield from _weight_and_bias(f"input_blocks.{block_index}.0.op")
            skips.append(channels)
            block_index, rate = block_index + 1, rate * 2
    yield from _res_block("middle_block.0", channels, channels)
    yield from _transformer("middle_block.1")
    yield from _res_block("middle_block.2", channels, channels)
    block_index = 0
    for level, factor in reversed(list(enumerate(mult))):
        for index in range(res_blocks + 1):
            yield from _res_block(f"output_blocks.{block_index}.0", channels + skips.pop(), factor * width)
            channels, inner = factor * width, 1
            if rate in attention_at:
                yield from _transformer(f"output_blocks.{block_index}.1")
                inner = 2
            if level and index == res_blocks:
                yield from _weight_and_bias(f"output_blocks.{block_index}.{inner}.conv")
                rate //= 2
            block_index += 1
    yield from _weight_and_bias("out.0", "out.2")


def _res_block(start: str, inside: int, outside: int) -> Iterator[str]:
    layers = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
    layers += ["skip_connection"] if inside != outside else []
    yield from _weight_and_bias(*(f"{start}.{layer}" for layer in layers))


def _transformer(start: str) -> Iterator[str]:
    block = f"{start}.transformer_blocks.0"
    yield from _weight_and_bias(f"{start}.norm", f"{start}.proj_in", f"{start}.proj_out")
    for attention in ("attn1", "attn2"):
        yield from (f"{block}.{attention}.{name}.weight" for name in ("to_q", "to_k", "to_v"))
        yield from _weight_and_bias(f"{block}.{attention}.to_out.0")
    yield from _weight_and_bias(
        f"{block}.ff.net.0.proj", f"{block}.ff.net.2", *(f"{block}.norm{index}" for index in (1, 2, 3))
    )


def _vae(width: int = 128, mult: tuple[int, ...] = (1, 2, 4, 4), res_blocks: int = 2) -> Iterator[str]:
    channels = width
    yield from _weight_and_bias("encoder.conv_in")
    for level, factor in enumerate(mult):
        for index in range(res_blocks):
            yield from _vae_block(f"encoder.down.{level}.block.{index}", channels, factor * width)
            channels = factor * width
        if level != len(mult) - 1:
            yield from _weight_and_bias(f"encoder.down.{level}.downsample.conv")
    yield from _vae_middle("encoder", channels)
    yield from _weight_and_bias("decoder.conv_in")
    yield from _vae_middle("decoder", channels)
    for level, factor in reversed(list(enumerate(mult))):
        for index in range(res_blocks + 1):
            yield from _vae_block(f"decoder.up.{level}.block.{index}", channels, factor * width)
            channels = factor * width
        if level:
            yield from _weight_and_bias(f"decoder.up.{level}.upsample.conv")
    yield from _weight_and_bias("quant_conv", "post_quant_conv")


def _vae_block(start: str, inside: int, outside: int) -> Iterator[str]:
    layers = ["norm1", "conv1", "norm2", "conv2"] + (["nin_shortcut"] if inside != outside else [])
    yield from _weight_and_bias(*(f"{start}.{layer}" for layer in layers))


def _vae_middle(side: str, channels: int) -> Iterator[str]:
    yield from _vae_block(f"{side}.mid.block_1", channels, channels)
    yield from _weight_and_bias(*(f"{side}.mid.attn_1.{name}" for name in ("norm", "q", "k", "v", "proj_out")))
    yield from _vae_block(f"{side}.mid.block_2", channels, channels)
    yield from _weight_and_bias(f"{side}.norm_out", f"{side}.conv_out")


def _clip(layers: int = 12) -> Iterator[str]:
    yield from ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "embeddings.position_ids")
    for index in range(layers):
        start = f"encoder.layers.{index}"
        yield from _weight_and_bias(*(f"{start}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")))
        yield from _weight_and_bias(
            f"{start}.layer_norm1", f"{start}.layer_norm2", f"{start}.mlp.fc1", f"{start}.mlp.fc2"
        )
    yield from _weight_and_bias("final_layer_norm")
