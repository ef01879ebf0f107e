"""Exports for `--for tensorflow-serving:2.6` load in that TensorFlow and return the same detections there.

Runs if OLD_TENSORFLOW_PYTHON names the Python of an older TensorFlow; `scripts/old_tensorflow` makes one.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import IMAGES, golden, image, write_checkpoint

from unfreeze import export
from unfreeze.errors import SavedModelError
from unfreeze.targets.serving_operations import unknown_operations
from unfreeze.verification.output_comparison import compare_detections

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
PYTHON = os.environ.get("OLD_TENSORFLOW_PYTHON", "")
# A small model of each family; the weights of the first are trained.
MODELS = [
    "digits",
    "tf1/v_ssd_mobilenet_v2_fpnlite",
    "tf1/mask_rcnn_inception_v2_coco",
    "tf1/v_rfcn_padded",
    "tf2/ssd_mobilenet_v2_fpnlite_320x320_coco17_tpu-8",
    "tf2/v_efficientdet_b0",
    "tf2/v_rfcn_resnet50",
    "tf2/v_center_mobilenet_v2_fpn",
]
DETECT = """
import sys
import numpy as np
import tensorflow as tf
model, images_path, outputs_path = sys.argv[1:]
images = np.load(images_path)
inputs = {
    "serving_default": tf.constant(images),
    "encoded_image_string_tensor": tf.stack([tf.io.encode_png(image) for image in images]),
}
signatures = tf.saved_model.load(model).signatures
outputs = {}
for key, value in inputs.items():
    [name] = signatures[key].structured_input_signature[1]
    for output, tensor in signatures[key](**{name: value}).items():
        outputs[key + "/" + output] = tensor.numpy()
np.savez(outputs_path, **outputs)
"""


@pytest.fixture(scope="module")
def version() -> str:
    """The version of the old TensorFlow, such as "2.6"."""
    program = "import tensorflow; print(tensorflow.__version__)"
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=True, env=environment())
    return ".".join(done.stdout.split()[-1].split(".")[:2])


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="OLD_TENSORFLOW_PYTHON is not set")
@pytest.mark.parametrize("name", MODELS)
def test_old_tensorflow_returns_the_same_detections(name: str, version: str, tmp_path: Path) -> None:
    run = DIGITS / "run" if name == "digits" else write_checkpoint(golden(*name.split("/")[::-1]), tmp_path / "run")
    runtimes = [f"tensorflow-serving:{version}"]
    try:
        exported = export(run, output_directory=tmp_path / "out", runtimes=runtimes, verify=False)
    except SavedModelError as error:
        pytest.skip(f"not supported by {version}: {error}")
    model = exported.saved_model
    assert unknown_operations(model, version) == []
    pixels = image(*IMAGES["a"])
    np.save(tmp_path / "images.npy", np.stack([pixels, pixels[:, ::-1]]))
    outputs_of_versions = []
    for number, python in enumerate((PYTHON, sys.executable)):
        command = [python, "-c", DETECT, str(model), str(tmp_path / "images.npy"), str(tmp_path / f"{number}.npz")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr[-3000:]
        outputs_of_versions.append(dict(np.load(tmp_path / f"{number}.npz")))
    for signature in ("serving_default", "encoded_image_string_tensor"):
        there, here = ({output.partition("/")[2]: value for output, value in outputs.items()
                        if output.startswith(f"{signature}/")} for outputs in outputs_of_versions)  # fmt: skip
        assert set(there) == set(here)
        compared = compare_detections(there, here)
        assert compared.ok, compared.problems
        assert compared.matched > 0
