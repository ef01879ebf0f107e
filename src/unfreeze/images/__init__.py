"""Picture files in, and pictures with detections drawn on them out."""

from unfreeze.images.detections import WHOLE_PICTURE, Detection
from unfreeze.images.drawing import draw
from unfreeze.images.files import JPEG_SUFFIXES, encoded_as, read_picture, write_picture
from unfreeze.images.sources import Source, find_sources, means_many, read_source
from unfreeze.images.videos import Frame, frames, is_video

__all__ = [
    "JPEG_SUFFIXES",
    "WHOLE_PICTURE",
    "Detection",
    "Frame",
    "Source",
    "draw",
    "encoded_as",
    "find_sources",
    "frames",
    "is_video",
    "means_many",
    "read_picture",
    "read_source",
    "write_picture",
]
