"""The rule by which TensorFlow Serving reads version numbers from the names below a model's base path.

Source: sources/storage_path/file_system_storage_path_source.cc of tensorflow/serving, absl::SimpleAtoi.
"""

import re
from collections.abc import Iterable

from unfreeze.callbacks import OnMessage, ignore

LARGEST_VERSION = 2**63 - 1  # versions are int64

# Spaces as absl::ascii_isspace has them. Python's strip() and \s also take separators such as \x1c.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?)([0-9]+)[ \t\n\v\f\r]*", re.ASCII)
_MAX_DIGITS = len(str(LARGEST_VERSION))  # int() of Python rejects strings of several thousand digits


def version_of(name: str) -> int | None:
    """Returns the version that a folder's name stands for, None if it is no version: 7 for `007`, None for `v7`.

    Negative numbers are no versions: TensorFlow Serving parses them, but a version "must be non-negative" there.
    """
    match = _NUMBER.fullmatch(name)
    if match is None or len(digits := match[2].lstrip("0")) > _MAX_DIGITS:
        return None
    number = int(f"{match[1]}{digits or 0}")
    return number if 0 <= number <= LARGEST_VERSION else None


def version_folders(names: Iterable[str], on_duplicate: OnMessage = ignore) -> dict[int, str]:
    """Returns the name of each version, lowest version first; names that are no versions are skipped.

    If two names stand for one version, such as `1` and `001`, the last one in the order of their bytes is used, and
    `on_duplicate` receives the warning of TensorFlow Serving.
    """
    folders: dict[int, str] = {}
    for name in sorted(names):
        version = version_of(name)
        if version is None:
            continue
        if version in folders:
            on_duplicate(
                f"Duplicate version directories detected. Version {version} will be loaded from {name}, "
                f"{folders[version]} will be ignored."
            )
        folders[version] = name
    return dict(sorted(folders.items()))
