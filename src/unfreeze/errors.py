"""Every error that a caller may want to tell apart, one tree.

Each message is one line that says what is wrong, where, what was received, and what to do. The command
line prints it and leaves with the class's `exit_code`; nobody sees a traceback for bad input.
"""

import warnings


class UnfreezeError(Exception):
    """The root: something the caller gave does not work, and the message says how to mend it."""

    exit_code = 2


class ConfigError(UnfreezeError):
    """A pipeline.config or a label map that cannot be read or does not make sense."""


class CheckpointError(UnfreezeError):
    """A checkpoint that is missing, torn, truncated, or not a checkpoint."""


class WeightsError(UnfreezeError):
    """The network of the config asks for weights which the checkpoint does not have, or has in another shape."""


class UnsupportedError(UnfreezeError):
    """A valid request that this version does not carry out: `not supported yet: …`, by name."""


class SavedModelError(UnfreezeError):
    """A folder that is not a SavedModel, or one that cannot be loaded or called."""


class OutputError(UnfreezeError):
    """An output that exists already, or that cannot be written."""


class ImageError(UnfreezeError):
    """An image, a video or an annotation file that cannot be read."""


class ArchiveError(UnfreezeError):
    """A model.tar.gz that cannot be unpacked safely, or whose code does not fit."""


class MissingExtraError(UnfreezeError):
    """A package that only some commands need is not installed."""


class RemoteError(UnfreezeError):
    """A server that cannot be reached, or that answers with an error."""


class VerificationError(UnfreezeError):
    """The result was made, but a check of it failed."""

    exit_code = 1


def __getattr__(name: str) -> type[UnfreezeError]:
    if name == "PictureError":
        warnings.warn("PictureError is now ImageError; the old name goes after 0.3", DeprecationWarning, stacklevel=2)
        return ImageError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
