"""A process that runs a model file on images: `python -m unfreeze.runtimes.worker FILE IMAGES.npy OUTPUTS.npz`."""

from __future__ import annotations

import numpy as np

from unfreeze.child_process import report_errors
from unfreeze.runtimes import find_model, load_any_model


def main(file: str, images: str, outputs: str) -> None:
    """Writes the outputs for the images, in one batch where the model allows it."""
    results = dict(load_any_model(find_model(file)).run(np.load(images)))
    np.savez(outputs, allow_pickle=False, **results)


if __name__ == "__main__":
    report_errors(main)
