"""The file of warm-up requests in a SavedModel, which a model server replays when it loads a version.

Source: servables/tensorflow/saved_model_warmup_util.cc of tensorflow/serving.
"""

from collections.abc import Iterator
from pathlib import Path

from unfreeze.errors import SavedModelError
from unfreeze.formatting import first_line

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_WARMUP_RECORDS = 1000


def read_warmup_records(saved_model: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the number, from 1, and the bytes of each PredictionLog in the warm-up file; nothing if there is no file.

    Raises: SavedModelError if the file is not a TFRecord file, is cut short, or has more records than a server reads.
    """
    path = saved_model / WARMUP_FILE
    if not path.is_file():
        return
    import tensorflow as tf

    number = 0
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), start=1):
            if number > MAX_WARMUP_RECORDS:
                raise SavedModelError(f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {path}")
            yield number, record
    except tf.errors.OpError as error:
        raise SavedModelError(
            f"{path}: cannot be read after record {number} ({first_line(error)}). Is it a complete TFRecord file?"
        ) from None
