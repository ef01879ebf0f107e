"""Throughput of `unfreeze predict` over a folder of images, beside the SavedModel alone on decoded batches.

    python benchmarks/prediction.py SAVED_MODEL FOLDER [--engines threads ray] [--limit N]

Each side is a process of its own. The SavedModel alone gets decoded images, in several ways: intra-op threads (0 is
TensorFlow's), callers, batch size. Of `predict`, the clock starts when the first image is done, so that starting
TensorFlow or Ray does not count; memory is that of all its processes, at half of the images and at nine tenths.

Both sides set TF_ENABLE_ONEDNN_OPTS and TF_ONEDNN_ASSUME_FROZEN_WEIGHTS as the command `unfreeze predict` does, unless
you set them; each line of the output says how they were set.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from onednn_settings import onednn_variables

from unfreeze.onednn import assume_frozen_weights, enable_for_command

WAYS = ((0, 1, 8), (0, 2, 8), (1, 2, 8), (1, 2, 2))  # intra-op threads (0: TensorFlow's choice), callers, batch size
DECODED = 160  # decoded images that are kept in memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engines", nargs="*", default=["threads", "ray"])
    parser.add_argument("--ways", nargs="*", default=[",".join(map(str, way)) for way in WAYS])
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--one", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        enable_for_command()
        sides[arguments.one[0]](arguments, *arguments.one[1:])
        return
    for name, ways in (("alone", arguments.ways), ("predict", arguments.engines)):
        for way in ways:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", name, way], check=True)


def image_paths(arguments: argparse.Namespace) -> list[Path]:
    found = sorted(arguments.folder.rglob("*.jpg"))
    return found[: arguments.limit] if arguments.limit else found


def alone(arguments: argparse.Namespace, way: str) -> None:
    """The SavedModel by so many callers at once, on batches that are decoded already, over and over."""
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    intra_op, callers, batch_size = map(int, way.split(","))
    tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    assume_frozen_weights(arguments.saved_model)
    call = tf.saved_model.load(str(arguments.saved_model)).signatures["image_tensor"]
    [name] = call.structured_input_signature[1]
    by_size: dict[tuple[int, ...], list[np.ndarray]] = {}
    for path in image_paths(arguments)[:DECODED]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        by_size.setdefault(pixels.shape, []).append(pixels)
    batches = [np.stack(one[at : at + batch_size]) for one in by_size.values() for at in range(0, len(one), batch_size)]
    for batch in batches[: 2 * callers]:
        call(**{name: tf.constant(batch)})
    left: queue.Queue[np.ndarray] = queue.Queue()
    for _ in range(3):
        for batch in batches:
            left.put(batch)

    def work() -> None:
        while True:
            try:
                batch = left.get_nowait()
            except queue.Empty:
                return
            {output: value.numpy() for output, value in call(**{name: tf.constant(batch)}).items()}

    threads = [threading.Thread(target=work) for _ in range(callers)]
    started, spent = time.monotonic(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = 3 * sum(map(len, batches))
    rate, cost_ms = count / (time.monotonic() - started), (time.process_time() - spent) / count * 1000
    result = {"alone": way, "images_per_s": round(rate, 1), "processor_ms": round(cost_ms, 1), **onednn_variables()}
    print(json.dumps(result), flush=True)


def predict(arguments: argparse.Namespace, engine: str) -> None:
    from unfreeze import predict_many

    seen: list[tuple[int, float, float]] = []
    memory: dict[str, float] = {}

    def on_advance(number: int, total: int) -> None:
        seen.append((number, time.monotonic(), time.process_time()))
        for name, share in (("memory_half_mb", 0.5), ("memory_end_mb", 0.9)):
            if number >= share * total and name not in memory:
                memory[name] = memory_mb()

    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        done = predict_many(
            arguments.saved_model,
            [str(path) for path in image_paths(arguments)],
            output_directory=folder,
            engine=engine,
            on_advance=on_advance,
        )
    (first, begun, spent_before), (last, ended, spent) = seen[0], seen[-1]
    result = {
        "predict": engine,
        "images": done.images,
        "images_per_s": round((last - first) / (ended - begun), 1),
        "processor_ms": round((spent - spent_before) / (last - first) * 1000, 1) if engine == "threads" else None,
        "whole_s": round(time.monotonic() - started, 1),
        "start_s": round(begun - started, 1),
        **memory,
    }
    assume_frozen_weights(arguments.saved_model)  # sets the variable here too if it was Ray's workers that set it
    print(json.dumps(result | onednn_variables()), flush=True)


def memory_mb() -> float:
    """Memory of this process's session, shared pages counted once (PSS)."""
    session, total = os.getsid(0), 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.getsid(int(process.name)) == session:
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return round(total / 1024)


sides = {"alone": alone, "predict": predict}

if __name__ == "__main__":
    main()
