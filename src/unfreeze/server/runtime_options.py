"""How TensorFlow uses the processor and the GPUs, which is set before its first operation."""

import logging
from dataclasses import dataclass

from unfreeze.errors import ConfigError

LOG = logging.getLogger("unfreeze.server")


@dataclass(frozen=True)
class RuntimeOptions:
    """The options of TensorFlow's runtime; all defaults leave the choice to TensorFlow."""

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    gpu_memory_fraction: float = 0.0
    gpu_memory_growth: bool = False

    def apply(self) -> None:
        """Sets the options for this process.

        Raises: ConfigError if one is out of range, or if TensorFlow has run an operation already.
        """
        if not 0 <= self.gpu_memory_fraction <= 1:
            raise ConfigError(
                f"--per-process-gpu-memory-fraction must be from 0 to 1 (found: {self.gpu_memory_fraction:g}). For "
                "example, pass 0.5 to let another process use the other half."
            )
        if min(self.intra_op_threads, self.inter_op_threads) < 0:
            raise ConfigError(
                "--tensorflow-intra-op-parallelism and --tensorflow-inter-op-parallelism must be at least 0 "
                f"(found: {self.intra_op_threads} and {self.inter_op_threads})."
            )
        if self == RuntimeOptions():
            return
        try:
            self._apply()
        except (RuntimeError, ValueError, AttributeError) as error:  # the last one: TensorFlow's message fails itself
            raise ConfigError(
                "threads and GPU memory of TensorFlow cannot be changed after it has run an operation in this process. "
                "Start the server in a new process."
            ) from error

    def _apply(self) -> None:
        import tensorflow as tf
        from tensorflow.python.framework import ops

        if self.gpu_memory_fraction:
            config = tf.compat.v1.ConfigProto()
            config.gpu_options.per_process_gpu_memory_fraction = self.gpu_memory_fraction
            # TensorFlow's public interface has a limit in megabytes only, and not together with growth.
            ops.enable_eager_execution_internal(config)
        tf.config.threading.set_intra_op_parallelism_threads(self.intra_op_threads)
        tf.config.threading.set_inter_op_parallelism_threads(self.inter_op_threads)
        gpus = tf.config.list_physical_devices("GPU")
        if self.gpu_memory_growth:
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
        if not gpus and (self.gpu_memory_fraction or self.gpu_memory_growth):
            LOG.warning("TensorFlow finds no GPU: the options of its memory have no effect")
