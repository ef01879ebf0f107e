"""The public names, the version, and that the import of the package is cheap."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import unfreeze

ROOT = Path(__file__).parents[1]
FUNCTIONS = [
    *(
        "benchmark",
        "diff",
        "evaluate",
        "export",
        "inspect",
        "labels",
        "load_detector",
        "package_kserve",
        "package_sagemaker",
    ),
    *("package_tensorflow_serving", "package_triton", "predict", "predict_many", "prune", "publish", "rollback"),
    *("serve", "start_sagemaker", "start_server", "verify", "watch"),
]
HEAVY = ("tensorflow", "numpy", "PIL", "google.protobuf", "rich")


def test_public_names() -> None:
    assert unfreeze.__all__ == sorted(["LoadedDetector", "UnfreezeError", "__version__", "errors", *FUNCTIONS])
    assert dir(unfreeze) == sorted(unfreeze.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_has_its_name(name: str) -> None:
    function = getattr(unfreeze, name)
    assert callable(function)
    assert function.__name__ == name


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'freeze'"):
        _ = unfreeze.freeze


def test_every_error_class_has_an_exit_code() -> None:
    classes = [value for value in vars(unfreeze.errors).values() if isinstance(value, type)]
    assert len(classes) > 5
    assert all(issubclass(error, unfreeze.UnfreezeError) and error.exit_code in (1, 2) for error in classes)


def test_version_is_the_top_entry_of_the_changelog() -> None:
    top = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert top is not None
    assert top[1] == unfreeze.__version__


@pytest.mark.parametrize("line", ["import unfreeze", "from unfreeze.cli import dispatch; dispatch(['--help'])"])
def test_import_and_help_load_nothing_heavy(line: str) -> None:
    program = f"import sys\n{line}\nprint('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["loaded:"]


def test_old_name_of_image_error_warns() -> None:
    with pytest.warns(DeprecationWarning, match="PictureError is now ImageError"):
        assert unfreeze.errors.PictureError is unfreeze.errors.ImageError
    with pytest.raises(AttributeError, match="has no attribute 'NoError'"):
        _ = unfreeze.errors.NoError
