"""The failure of a part of the verification."""

from dataclasses import dataclass

from unfreeze.errors import UnsupportedError
from unfreeze.formatting import first_line


@dataclass(frozen=True)
class Failure:
    """The failure of a step, or of one call of a model; `unsupported` if this machine cannot run it at all."""

    message: str
    unsupported: bool = False

    def __str__(self) -> str:
        return self.message

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Returns the failure that an exception means, in one line."""
        if isinstance(error, UnsupportedError):
            return cls(first_line(error), unsupported=True)
        return cls(f"{type(error).__name__}: {first_line(error)}")
