"""Reads images and videos, and draws detections on them."""

from unfreeze.images.detections import WHOLE_IMAGE, Detection
from unfreeze.images.drawing import draw_detections
from unfreeze.images.files import JPEG_SUFFIXES, data_uri, encode_image, read_image, require_image, write_image
from unfreeze.images.sources import Source, find_sources, is_image_collection, read_source
from unfreeze.images.videos import Frame, is_video, read_frames

__all__ = [
    "JPEG_SUFFIXES",
    "WHOLE_IMAGE",
    "Detection",
    "Frame",
    "Source",
    "data_uri",
    "draw_detections",
    "encode_image",
    "find_sources",
    "is_image_collection",
    "is_video",
    "read_frames",
    "read_image",
    "read_source",
    "require_image",
    "write_image",
]
