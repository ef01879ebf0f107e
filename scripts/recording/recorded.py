"""The two files of a golden, as tests/reference.py reads them. Runs on Python 3.7 and 3.9, with NumPy alone."""

import gzip
import json
import os

import numpy as np

KEPT_ROWS = 256  # of the anchors of a raw output, evenly spread
KEPT_MASKS = 20
LARGEST_BYTES = 4e6  # a larger output is not recorded


def add_outputs(recorded, image, outputs):
    """Adds the outputs for one image under IMAGE/OUTPUT; of a long raw output the kept rows and their indices."""
    for name, array in outputs.items():
        if name.startswith("raw_") and array.ndim == 3 and array.shape[1] > KEPT_ROWS:
            rows = np.unique(np.linspace(0, array.shape[1] - 1, KEPT_ROWS).astype(int))
            recorded[f"{image}/{name}/rows"] = rows
            recorded[f"{image}/{name}/count"] = np.array(array.shape[1])
            array = array[:, rows]
        if "mask" in name:
            array = array[:, :KEPT_MASKS]
        if array.nbytes < LARGEST_BYTES:
            recorded[f"{image}/{name}"] = array


def write_golden(config_path, folder, recorded, golden, outputs):
    """Writes NAME.npz with the recorded arrays and NAME.json.gz with the golden and its outputs' dtypes and shapes."""
    os.makedirs(folder, exist_ok=True)
    base = os.path.join(folder, os.path.splitext(os.path.basename(config_path))[0])
    np.savez_compressed(base + ".npz", **recorded)
    described = {
        name: [tensor.dtype.name, None if tensor.shape.rank is None else tensor.shape.as_list()]
        for name, tensor in outputs.items()
    }
    with gzip.open(base + ".json.gz", "wt") as file:
        json.dump(dict(golden, outputs=described), file)


def tflite_pixels(image, height, width):
    """Returns `[height, width, 3]` uint8: an image file, resized, or the reference image for `-`."""
    if image == "-":
        import reference_weights

        return reference_weights.image(height, width, 7)
    from PIL import Image

    with Image.open(image) as opened:
        return np.asarray(opened.convert("RGB").resize((width, height), Image.BILINEAR))


def write_tflite_golden(name, folder, recorded, flags, operation):
    """Writes NAME.npz with the recorded arrays, and NAME.json with the flags and the operation's attributes."""
    os.makedirs(folder, exist_ok=True)
    np.savez_compressed(os.path.join(folder, name + ".npz"), **recorded)
    with open(os.path.join(folder, name + ".json"), "w") as file:
        json.dump({"flags": flags, "operation": operation}, file, indent=1)
        file.write("\n")
