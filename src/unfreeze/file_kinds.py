"""Recognizes what a file is by its first bytes, so that errors can name the file that was passed by mistake.

Imports no TensorFlow, and reads only the start of a file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

HEAD_BYTES = 4096
LABEL_MAP, PIPELINE_CONFIG = "a label map", "a pipeline.config"
TEXT_GRAPH, TFLITE = "a graph in text form", "a TensorFlow Lite model"
STATE_FILE = "the state file of a training folder"


@dataclass(frozen=True)
class FileKind:
    """A kind of file, as errors name it, and what to do if it is not the expected one."""

    name: str
    advice: str = ""

    def instead_of(self, expected: str) -> str:
        """Returns `is a Git LFS pointer, not a label map; run git lfs pull`."""
        return f"is {self.name}, not {expected}" + (f"; {self.advice}" if self.advice else "")


EMPTY = FileKind("an empty file", "copy it again")
ZEROS = FileKind("a file of zeros, as an interrupted copy leaves it", "copy it again")
GIT_LFS = FileKind("a Git LFS pointer", "run git lfs pull to get the file")
WEB_PAGE = FileKind("a web page or XML", "download the file itself")

# Kinds by their magic bytes: offset, bytes, kind.
_BINARY = (
    (0, b"version https://git-lfs.github.com/", GIT_LFS),
    (0, b"version https://hawser.github.com/", GIT_LFS),
    (4, b"TFL3", FileKind(TFLITE, "pass the checkpoint or the frozen graph that it was made from")),
    (0, b"\x89HDF", FileKind("a Keras .h5 file")),
    (0, b"PK\x03\x04", FileKind("a zip archive (a .keras or PyTorch model, perhaps)")),
    (0, b"\x1f\x8b", FileKind("a gzip archive", "unpack it first")),
    (257, b"ustar", FileKind("a tar archive", "unpack it first")),
    (0, b"\x89PNG", FileKind("a PNG image")),
    (0, b"\xff\xd8\xff", FileKind("a JPEG image")),
    (0, b"GIF8", FileKind("a GIF image")),
    (0, b"%PDF", FileKind("a PDF document")),
)

# Kinds by the start of the text, after comments and spaces.
_FIELD = r"\s*[:{<]"
_TEXT = (
    (r"<(?:!doctype|html|\?xml)", WEB_PAGE),
    (rf"item{_FIELD}", FileKind(LABEL_MAP)),
    (rf"model_checkpoint_path{_FIELD}", FileKind(STATE_FILE)),
    (
        rf"(?:node|library|versions|meta_info_def|meta_graphs|graph_def|saved_model_schema_version){_FIELD}",
        FileKind(TEXT_GRAPH, "pass the binary .pb file or the checkpoint"),
    ),
    (
        rf"(?:model|train_config|train_input_reader|train_input_config|eval_config|eval_input_reader|"
        rf"eval_input_config|graph_rewriter){_FIELD}",
        FileKind(PIPELINE_CONFIG),
    ),
    (r"\{\s*[\"}]|\[\s*[\"{\]]", FileKind("JSON")),
)
_TEXT_PATTERNS = tuple((re.compile(rf"(?:\s|#[^\n]*\n)*{start}", re.IGNORECASE), kind) for start, kind in _TEXT)


def kind_of_file(path: str | os.PathLike[str]) -> FileKind | None:
    """Returns the kind of a file; None if it is of no kind that is known here. Raises: OSError."""
    with open(path, "rb") as file:
        return kind_of_bytes(file.read(HEAD_BYTES))


def kind_of_bytes(head: bytes) -> FileKind | None:
    """Returns the kind of a file that starts with these bytes, HEAD_BYTES or all of it."""
    if not head:
        return EMPTY
    if len(head) > 64 and not head.strip(b"\0"):
        return ZEROS
    for offset, magic, kind in _BINARY:
        if head[offset:].startswith(magic):
            return kind
    if b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return None
    text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
    return next((kind for pattern, kind in _TEXT_PATTERNS if pattern.match(text)), None)
