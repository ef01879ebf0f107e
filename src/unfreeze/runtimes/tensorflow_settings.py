"""TensorFlow's settings of the process, which its two runtimes share."""

from contextlib import suppress

import tensorflow as tf


def limit_threads(threads: int | None) -> None:
    """Limits the threads of one operation; does nothing for None, or if TensorFlow has run already."""
    if threads is not None:
        with suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)


def has_gpu() -> bool:
    """Returns whether TensorFlow runs models on a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))
