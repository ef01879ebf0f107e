"""The process in which `run_in_process` runs a model file: `python -m unfreeze.runtimes.worker FILE FOLDER`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from unfreeze.child_process import report_errors
from unfreeze.errors import SavedModelError
from unfreeze.formatting import first_line
from unfreeze.runtimes import find_model, load_any_model
from unfreeze.runtimes.process import RUN, images_of, outputs_of


def main(file: str, folder: str) -> None:
    """Runs the model on each batch in the folder, and writes the outputs or why there are none."""
    began = time.perf_counter()
    model = load_any_model(find_model(file))
    load_s = time.perf_counter() - began
    failures: list[str | None] = []
    seconds: list[float] = []
    while (images := images_of(Path(folder), len(seconds))).is_file():
        batch = np.load(images)
        began = time.perf_counter()
        try:
            outputs = dict(model.run(batch))
        except SavedModelError as error:
            failures.append(first_line(error))
        else:
            failures.append(None)
            np.savez(outputs_of(Path(folder), len(seconds)), allow_pickle=False, **outputs)
        seconds.append(time.perf_counter() - began)
    run = {"load_s": load_s, "seconds": seconds, "failures": failures}
    Path(folder, RUN).write_text(json.dumps(run), encoding="utf-8")


if __name__ == "__main__":
    report_errors(main)
