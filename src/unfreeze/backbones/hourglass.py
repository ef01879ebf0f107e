"""Hourglass networks: residual blocks that downsample and upsample, with shortcuts between equal sizes.

Source: object_detection/models/keras_models/hourglass_network.py; papers arXiv:1603.06937, arXiv:1904.07850.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.keras_layers import Norm, conv, padded
from unfreeze.ops.layers import nearest_neighbor_upsampling
from unfreeze.ops.normalization import BatchNorm


@dataclass(frozen=True)
class Hourglass:
    """A network of stacked hourglasses.

    `num_channels`: of the stem. `channels`, `blocks`: channels and residual blocks of each stage, the outermost first.
    """

    num_channels: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    num_hourglasses: int = 1
    stagewise_downsample: bool = True
    encoder_decoder_shortcut: bool = True


NORM = BatchNorm(scale=True, epsilon=1e-5, decay=0.1, fused=False)

# Stages of a network of `num_channels`: (channels in multiples of it, residual blocks).
STAGES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "hourglass_10": ((2, 2), (1, 1)),
    "hourglass_20": ((2, 2, 3), (1, 2, 2)),
    "hourglass_32": ((2, 2, 3, 3), (2, 2, 2, 2)),
    "hourglass_52": ((2, 2, 3, 3, 3, 4), (2, 2, 2, 2, 2, 4)),
    "hourglass_100": ((2, 2, 3, 3, 3, 4), (4, 4, 4, 4, 4, 8)),
}
# hourglass_104 is two of hourglass_52 on 128 channels.
HOURGLASS_104 = Hourglass(128, (256, 256, 384, 384, 384, 512), STAGES["hourglass_52"][1], num_hourglasses=2)


def hourglass_of(name: str, num_channels: int, **options: bool) -> Hourglass:
    """Returns the network of the row of STAGES called `name`, for a stem of `num_channels`."""
    multiples, blocks = STAGES[name]
    return Hourglass(num_channels, tuple(num_channels * multiple for multiple in multiples), blocks, **options)


def hourglass(x: tf.Tensor, p: Branch, network: Hourglass, *, initial_downsample: bool = True) -> list[tf.Tensor]:
    """`[N, H, W, 3] -> [N, H / 4, W / 4, C]` for each of the stacked hourglasses; the last map is the best.

    Without `initial_downsample`, the outputs are as large as the input.
    """
    if initial_downsample:
        stem, stem_kernel, stride = p["downsample_input"], 7, 2
    else:
        stem, stem_kernel, stride = p["conv_input"], 3, 1
    width = network.channels[0]
    x = conv_block(x, stem["conv_block"], network.num_channels, stem_kernel, stride)
    x = residual_block(x, stem["residual_block"], width, stride, skip_conv=True)
    outputs = []
    for i in range(network.num_hourglasses):
        step = str(i)
        y = _stage(x, p["hourglass_network"][step], network, network.channels, network.blocks)
        outputs.append(conv_block(y, p["output_conv"][step], width, 3))
        if i < network.num_hourglasses - 1:
            x = conv_block(x, p["intermediate_conv1"][step], width, 1, relu=False)
            x += conv_block(outputs[-1], p["intermediate_conv2"][step], width, 1, relu=False)
            x = residual_block(tf.nn.relu(x), p["intermediate_residual"][step], width)
    return outputs


def conv_block(
    x: tf.Tensor, p: Branch, filters: int, kernel_size: int, stride: int = 1, *, relu: bool = True
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`: a convolution whose padding does not depend on the stride."""
    return conv(
        padded(x, kernel_size // 2) if kernel_size > 1 else x,
        p["conv"],
        filters,
        kernel_size,
        stride=stride,
        padding="VALID",
        bias=False,
        norm=_norm(p["norm"]),
        activation=tf.nn.relu if relu else None,
    )


def residual_block(x: tf.Tensor, p: Branch, filters: int, stride: int = 1, *, skip_conv: bool = False) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`: two convolutions beside a shortcut."""
    y = conv_block(x, p["conv_block"], filters, 3, stride)
    y = conv(y, p["conv"], filters, 3, bias=False, norm=_norm(p["norm"]))
    skip = conv_block(x, p["skip"], filters, 1, stride, relu=False) if skip_conv else x
    return tf.nn.relu(y + skip)


def _stage(
    x: tf.Tensor, p: Branch, network: Hourglass, channels: tuple[int, ...], blocks: tuple[int, ...]
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, channels[0]]`: the inner stages at half the size, beside a shortcut."""
    outer, inner = channels[:2]
    stride = 2 if network.stagewise_downsample else 1
    y = _residual_blocks(x, p["encoder_block2"], inner, blocks[0], stride, skip_conv=outer != inner)
    if len(channels) > 2:
        y = _stage(y, p["inner_block"]["0"], network, channels[1:], blocks[1:])
    else:
        y = _residual_blocks(y, p["inner_block"], inner, blocks[1])
    y = _residual_blocks(y, p["decoder_block"], outer, blocks[0], inner_filters=inner)
    if stride > 1:
        y = nearest_neighbor_upsampling(y, stride)
    if not network.encoder_decoder_shortcut:
        return y
    return _residual_blocks(x, p["encoder_block1"], outer, blocks[0]) + y


def _residual_blocks(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    count: int,
    stride: int = 1,
    *,
    inner_filters: int | None = None,
    skip_conv: bool = False,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`: the first block has the stride; all but the last have `inner_filters`."""
    inner_filters = filters if inner_filters is None else inner_filters
    for i in range(count - 1):
        first_stride = stride if i == 0 else 1
        x = residual_block(
            x, p[str(i)], inner_filters, first_stride, skip_conv=first_stride > 1 or (i == 0 and skip_conv)
        )
    last_stride = stride if count == 1 else 1
    # With a single block, the Object Detection API adds the convolution to the shortcut only if there is a stride.
    last_skip_conv = last_stride > 1 if count == 1 else inner_filters != filters
    return residual_block(x, p[str(count - 1)], filters, last_stride, skip_conv=last_skip_conv)


def _norm(p: Branch) -> Norm:
    return Norm(p, NORM)
