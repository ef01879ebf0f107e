"""3 x 3 convolutions of small maps with a quarter of the multiplications, by Winograd's F(4 x 4, 3 x 3).

Outputs are computed in tiles of 4 x 4, each from 6 x 6 pixels: pixels and kernel are transformed to 36 points,
multiplied point by point (a matrix product over the channels), and transformed back. A tile takes 36 products instead
of 144.

The cost is accuracy: errors are about five times those of a plain convolution, 1e-6 of the standard deviation of the
outputs. The points 0, 3/4, -3/4, 3/2, -3/2 have the smallest error among simple ones.

Source: paper arXiv:1509.09308.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

TILE, TAPS = 4, 3
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # the sixth point is infinity
NUM_POINTS = len(POINTS) + 1


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the transforms of outputs `[4, 6]`, kernel `[6, 3]` and pixels `[6, 6]` along one axis.

    The third follows from the first two, since output = outputs @ ((kernel @ taps) * (pixels @ tile)).
    """
    powers = np.array([[point**i for i in range(TILE)] for point in POINTS])
    distances = [np.prod([point - q for q in POINTS if q != point]) for point in POINTS]
    at_infinity = np.eye(1, TILE, TILE - 1)
    outputs = np.concatenate([powers, at_infinity]).T
    kernel = np.concatenate([powers[:, :TAPS] / np.array(distances)[:, np.newaxis], np.eye(1, TAPS, TAPS - 1)])
    products = np.array([outputs[i] * kernel[:, j] for i in range(TILE) for j in range(TAPS)])
    convolution = np.eye(NUM_POINTS)[[i + j for i in range(TILE) for j in range(TAPS)]]
    return outputs, kernel, np.linalg.lstsq(products, convolution, rcond=None)[0]


OUTPUTS, KERNEL, PIXELS = _transforms()


def winograd_kernel(kernel: tf.Tensor) -> tf.Tensor:
    """`[3, 3, C, F] -> [36, C, F]`: the kernel at the points, to be computed once."""
    channels, filters = kernel.shape[2:]
    points = tf.constant(np.kron(KERNEL, KERNEL), tf.float32)
    return tf.reshape(points @ tf.reshape(kernel, [TAPS * TAPS, -1]), [NUM_POINTS**2, channels, filters])


def winograd_conv(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`[R, H, W, C], [36, C, F] -> [R, H, W, F]`: a convolution with stride 1 and "SAME" padding; H and W are known."""
    height, width, channels = x.shape[1:]
    tiles = -(-height // TILE) * -(-width // TILE)
    filters = kernel.shape[2]
    # With pixels first and rows of the batch second, each transform is one matrix product for all rows and channels.
    pixels = tf.reshape(tf.transpose(tf.reshape(x, [-1, height * width, channels]), [1, 0, 2]), [height * width, -1])
    at_points = tf.reshape(_pixels_to_points(height, width) @ pixels, [NUM_POINTS**2, -1, channels])
    products = tf.reshape(tf.matmul(at_points, kernel), [NUM_POINTS**2 * tiles, -1])
    outputs = _points_to_outputs(height, width) @ products
    outputs = tf.transpose(tf.reshape(outputs, [height * width, -1, filters]), [1, 0, 2])
    return tf.reshape(outputs, [-1, height, width, filters])


def _pixels_to_points(height: int, width: int) -> tf.Tensor:
    """Returns the transform `[36 * tiles, H * W]`."""
    both = np.einsum("pth,quw->pqtuhw", _tiles_of_pixels(height), _tiles_of_pixels(width))
    return tf.constant(both.reshape(-1, height * width), tf.float32)


def _points_to_outputs(height: int, width: int) -> tf.Tensor:
    """Returns the transform `[H * W, 36 * tiles]`."""
    both = np.einsum("hpt,wqu->hwpqtu", _tiles_of_outputs(height), _tiles_of_outputs(width))
    return tf.constant(both.reshape(height * width, -1), tf.float32)


def _tiles_of_pixels(length: int) -> np.ndarray:
    """Returns `[points, tiles, length]`. A tile begins one pixel before its outputs; pixels outside the map are 0."""
    tiles = -(-length // TILE)
    matrix = np.zeros((NUM_POINTS, tiles, tiles * TILE + 2))
    for tile in range(tiles):
        matrix[:, tile, tile * TILE : tile * TILE + NUM_POINTS] = PIXELS
    return matrix[:, :, 1 : length + 1]


def _tiles_of_outputs(length: int) -> np.ndarray:
    """Returns `[length, points, tiles]`."""
    tiles = -(-length // TILE)
    matrix = np.zeros((tiles * TILE, NUM_POINTS, tiles))
    for tile in range(tiles):
        matrix[tile * TILE : (tile + 1) * TILE, :, tile] = OUTPUTS
    return matrix[:length]
