"""Version numbers of folder names, compared with a reference of TensorFlow Serving's rule and with absl itself."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unfreeze.version_folders import LARGEST_VERSION, version_folders, version_of

NAMES = [
    "1", "007", "+3", " 7", "7 ", "\t7\n", "\v7\f", "\x1c7", "\x857", "\xa07", "-0", "-1", "+", "-", "++3", "+ 3", "",
    " ", "v1", "0.1", "1e3", "1_0", "0x1", "3a", ".4", "0", "٣", "²", str(2**63 - 1), str(2**63), f"-{2**63}",
    "0" * 300, "0" * 300 + "7", "9" * 5000,
]  # fmt: skip
names = st.one_of(
    st.sampled_from(NAMES),
    st.text(alphabet=" \t\n\v\f\r+-0123456789", max_size=6),
    st.text(max_size=6),
    st.integers(-(2**64), 2**64).map(str),
)


def reference_version_of(name: str) -> int | None:
    """Reads a number as absl::numbers_internal::safe_strto64_base does, one byte at a time; negative ones are None."""
    text, spaces = name.encode("utf-8", "surrogatepass"), b" \t\n\v\f\r"
    start, end = 0, len(text)
    while start < end and text[start] in spaces:
        start += 1
    while start < end and text[end - 1] in spaces:
        end -= 1
    negative = text[start : start + 1] == b"-"
    if text[start : start + 1] in (b"-", b"+"):
        start += 1
    if start >= end:
        return None
    value = 0
    for byte in text[start:end]:
        if not ord("0") <= byte <= ord("9"):
            return None
        value = value * 10 + byte - ord("0")
        if value > LARGEST_VERSION:
            return None
    return None if negative and value else value


def reference_version_folders(folder_names: list[str]) -> dict[int, str]:
    """Indexes the names of a std::set as IndexChildrenByVersion does: a later name replaces an earlier one."""
    children_by_version: dict[int, str] = {}
    for child in sorted(set(folder_names), key=lambda name: name.encode("utf-8", "surrogatepass")):
        version = reference_version_of(child)
        if version is not None:
            children_by_version[version] = child
    return dict(sorted(children_by_version.items()))


@given(names)
@example("+3")
@example(" 7")
def test_versions_agree_with_the_reference(name: str) -> None:
    assert version_of(name) == reference_version_of(name)


@given(st.lists(names, max_size=12))
@example(["1", "001", "+1", "1 "])
def test_folders_agree_with_the_reference(folder_names: list[str]) -> None:
    folders = version_folders(folder_names)
    assert list(folders.items()) == list(reference_version_folders(folder_names).items())


@pytest.fixture(scope="module")
def absl_version_of() -> Callable[[str], int | None]:
    """Parses with the absl that is linked into TensorFlow, which is not imported for it."""
    package = importlib.util.find_spec("tensorflow")
    assert package is not None
    assert package.origin is not None
    library = next(Path(package.origin).parent.glob("libtensorflow_framework*.so*"), None)
    if library is None:
        pytest.skip("TensorFlow has no libtensorflow_framework here")
    symbol = re.search(
        rb"_ZN4absl\w*16numbers_internal17safe_strto64_baseESt17basic_string_viewIcSt11char_traitsIcEEPli\b",
        library.read_bytes(),
    )
    if symbol is None:
        pytest.skip("this TensorFlow exports no absl::numbers_internal::safe_strto64_base")
    parse = getattr(ctypes.CDLL(str(library)), symbol[0].decode())
    parse.restype = ctypes.c_bool  # a string_view travels as its size and its pointer
    parse.argtypes = [ctypes.c_size_t, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_int]

    def version(name: str) -> int | None:
        text, number = name.encode("utf-8", "surrogatepass"), ctypes.c_int64()
        parsed = parse(len(text), text, ctypes.byref(number), 10)
        return number.value if parsed and number.value >= 0 else None

    return version


def test_versions_agree_with_absl(absl_version_of: Callable[[str], int | None]) -> None:
    @given(names)
    def agree(name: str) -> None:
        assert version_of(name) == absl_version_of(name)

    agree()
    assert [version_of(name) for name in NAMES] == [absl_version_of(name) for name in NAMES]


def test_the_last_name_of_a_version_is_used_with_a_warning() -> None:
    warnings: list[str] = []
    assert version_folders(["7", "1", "x", "001", "models.config"], warnings.append) == {1: "1", 7: "7"}
    assert warnings == ["Duplicate version directories detected. Version 1 will be loaded from 1, 001 will be ignored."]
