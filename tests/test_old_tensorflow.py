"""What passes `--for tensorflow-serving:2.6` loads in that TensorFlow, and answers there as it does here.

Runs where OLD_TENSORFLOW_PYTHON names the Python of an older TensorFlow; `scripts/old_tensorflow` makes one.
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
# Of each family one that is small; the first was really trained.
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
ANSWER = """
import sys
import numpy as np
import tensorflow as tf
model, pictures, answers = sys.argv[1:]
pixels = np.load(pictures)
inputs = {
    "serving_default": tf.constant(pixels),
    "encoded_image_string_tensor": tf.stack([tf.io.encode_png(each) for each in pixels]),
}
signatures = tf.saved_model.load(model).signatures
found = {}
for key, value in inputs.items():
    [name] = signatures[key].structured_input_signature[1]
    for output, tensor in signatures[key](**{name: value}).items():
        found[key + "/" + output] = tensor.numpy()
np.savez(answers, **found)
"""


@pytest.fixture(scope="module")
def version() -> str:
    """Of the old TensorFlow, as in "2.6"."""
    program = "import tensorflow; print(tensorflow.__version__)"
    told = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=True, env=environment())
    return ".".join(told.stdout.split()[-1].split(".")[:2])


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="OLD_TENSORFLOW_PYTHON is not set")
@pytest.mark.parametrize("name", MODELS)
def test_it_answers_there_as_here(name: str, version: str, tmp_path: Path) -> None:
    run = DIGITS / "run" if name == "digits" else write_checkpoint(golden(*name.split("/")[::-1]), tmp_path / "run")
    runtimes = [f"tensorflow-serving:{version}"]
    try:
        exported = export(run, output_directory=tmp_path / "out", runtimes=runtimes, verify=False)
    except SavedModelError as error:
        pytest.skip(f"refused for {version}: {error}")
    model = exported.saved_model
    assert unknown_operations(model, version) == []
    pictures = np.stack([image(*IMAGES["a"]), image(*IMAGES["a"])[:, ::-1]])
    np.save(tmp_path / "pictures.npy", pictures)
    answers = []
    for number, python in enumerate((PYTHON, sys.executable)):
        command = [python, "-c", ANSWER, str(model), str(tmp_path / "pictures.npy"), str(tmp_path / f"{number}.npz")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr[-3000:]
        answers.append(dict(np.load(tmp_path / f"{number}.npz")))
    for signature in ("serving_default", "encoded_image_string_tensor"):
        there, here = ({output.partition("/")[2]: value for output, value in answer.items()
                        if output.startswith(f"{signature}/")} for answer in answers)  # fmt: skip
        assert set(there) == set(here)
        compared = compare_detections(there, here)
        assert compared.ok, compared.problems
        assert compared.matched > 0
