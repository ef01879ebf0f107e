"""Attention of each box to features of other images of the same camera, and to the other boxes of its own image.

Source: object_detection/meta_architectures/context_rcnn_lib.py, context_rcnn_lib_tf2.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, fully_connected
from unfreeze.ops.normalization import BatchNorm

PROJECTION = Style(norm=BatchNorm(scale=True, decay=0.97), activation=tf.nn.relu6)
KERAS_PROJECTION = replace(PROJECTION, biases_before_norm=True)
INVALID = -100000.0  # the logit of a key that is padding


@dataclass(frozen=True)
class ContextAttention:
    """The options of a `context_config`, under its names. A layer with several heads returns their mean."""

    attention_bottleneck_dimension: int
    attention_temperature: float
    use_self_attention: bool = False
    use_long_term_attention: bool = True
    self_attention_in_sequence: bool = False
    num_attention_heads: int = 1
    num_attention_layers: int = 1


def context_attention(
    boxes: tf.Tensor,
    num_proposals: tf.Tensor,
    context_features: tf.Tensor,
    valid_context_size: tf.Tensor,
    p: Branch,
    options: ContextAttention,
) -> tf.Tensor:
    """`[N, P, C], [N], [N, M, F], [N] -> [N, P, C]`: the attended features, to be added to the features of each box.

    In each image the first `num_proposals` boxes and the first `valid_context_size` context features are valid.
    """
    outputs = _outputs(p)
    own = None
    if options.use_self_attention:
        block = p["SelfAttentionBlock"]
        own = _attended(boxes, boxes, num_proposals, num_proposals, block, next(outputs), options)
        if not options.use_long_term_attention:
            return own
    x = boxes if own is None or not options.self_attention_in_sequence else (own + boxes) / 2.0
    attended = x
    for layer in range(options.num_attention_layers):
        heads = [
            _attended(
                attended,
                context_features,
                num_proposals,
                valid_context_size,
                p[f"AttentionBlock{head}_AttentionLayer{layer}"],
                next(outputs),
                options,
            )
            for head in range(options.num_attention_heads)
        ]
        attended += tf.add_n(heads) / len(heads)
    attended += x
    return attended if own is None or options.self_attention_in_sequence else own + attended


def keras_context_attention(
    boxes: tf.Tensor,
    num_proposals: tf.Tensor,
    context_features: tf.Tensor,
    valid_context_size: tf.Tensor,
    p: Branch,
    options: ContextAttention,
) -> tf.Tensor:
    """Computes `context_attention` as TensorFlow 2 does: one layer, one head, without the box's own features."""
    return _attended(
        boxes,
        context_features,
        num_proposals,
        valid_context_size,
        p["AttentionBlock0_AttentionLayer0"],
        p["fully_connected"],
        options,
        KERAS_PROJECTION,
    )


def _attended(
    x: tf.Tensor,
    context: tf.Tensor,
    num_queries: tf.Tensor,
    num_keys: tf.Tensor,
    p: Branch,
    output: Branch,
    options: ContextAttention,
    style: Style = PROJECTION,
) -> tf.Tensor:
    """`[N, P, C], [N, M, F], [N], [N] -> [N, P, C]`; invalid rows have queries, keys and values of zeros."""
    depth = options.attention_bottleneck_dimension
    valid_queries = tf.sequence_mask(num_queries, tf.shape(x)[1])[..., tf.newaxis]
    valid_keys = tf.sequence_mask(num_keys, tf.shape(context)[1])
    queries = tf.where(valid_queries, tf.math.l2_normalize(_projected(x, p["fully_connected"], depth, style), 2), 0.0)
    keys, values = (
        tf.where(valid_keys[..., tf.newaxis], tf.math.l2_normalize(_projected(context, p[name], depth, style), 2), 0.0)
        for name in ("fully_connected_1", "fully_connected_2")
    )
    weights = tf.where(valid_keys[:, tf.newaxis], tf.matmul(queries, keys, transpose_b=True), INVALID)
    features = tf.matmul(tf.nn.softmax(weights / options.attention_temperature), values)
    return _projected(features, output, x.shape[2], style)


def _projected(x: tf.Tensor, p: Branch, depth: int, style: Style) -> tf.Tensor:
    """`[N, M, F] -> [N, M, depth]`."""
    flat = fully_connected(tf.reshape(x, [-1, x.shape[2]]), p, depth, style=style)
    return tf.reshape(flat, [-1, tf.shape(x)[1], depth])


def _outputs(p: Branch) -> Iterator[Branch]:
    """Yields the last layer of each block. The OD API creates it outside the block's scope, so slim numbers them."""
    yield p["fully_connected"]
    i = 1
    while True:
        yield p[f"fully_connected_{i}"]
        i += 1
