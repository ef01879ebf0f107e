"""The errors that this package raises for bad input: one tree, whose root is UnfreezeError.

Each message is one line that says where the problem is, what is wrong, what was found, and what to do. The command line
prints it without a traceback, and exits with the `exit_code` of the class.
"""

import warnings


class UnfreezeError(Exception):
    """The root of all errors: the call cannot succeed with this input or in this environment."""

    exit_code = 2


class ConfigError(UnfreezeError):
    """A pipeline.config, a label map or an option that cannot be read or contradicts itself."""


class CheckpointError(UnfreezeError):
    """A checkpoint that is missing, incomplete, or not a checkpoint."""


class WeightsError(UnfreezeError):
    """A checkpoint that lacks weights of the network of the config, or has them in another shape."""


class UnsupportedError(UnfreezeError):
    """A valid model or option that this version does not support; the message names it."""


class SavedModelError(UnfreezeError):
    """A model file that is missing, cannot be loaded or called, or is not a detector."""


class OutputError(UnfreezeError):
    """An output that exists already, or that cannot be written."""


class ImageError(UnfreezeError):
    """An image, a video or an annotation file that cannot be read."""


class ArchiveError(UnfreezeError):
    """A model.tar.gz that cannot be unpacked safely, or whose code does not have the expected functions."""


class ConversionError(UnfreezeError):
    """A converter could not write a model in another format."""


class MissingExtraError(UnfreezeError):
    """A package that is not installed, and that only some commands need."""


class RemoteError(UnfreezeError):
    """A server that cannot be reached, or that responds with an error."""


class VerificationError(UnfreezeError):
    """A result that failed a check of its verification."""

    exit_code = 1


def __getattr__(name: str) -> type[UnfreezeError]:
    if name == "PictureError":
        warnings.warn(
            "PictureError is now ImageError; the old name will be removed after 0.3", DeprecationWarning, stacklevel=2
        )
        return ImageError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
