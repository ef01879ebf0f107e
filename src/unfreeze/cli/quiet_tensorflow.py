"""Imports TensorFlow without the lines that its libraries write on stderr, at the moment when something imports it.

`TF_CPP_MIN_LOG_LEVEL` stops most of the lines, but not those written before the log is set up ("cudart_stub",
"computation_placer", "All log messages before absl::InitializeLog()"), nor that there is no GPU. These come during the
import and the first look for devices, so stderr is redirected that long.

A command does not import TensorFlow itself: the library does, once it has checked all that needs no TensorFlow. So an
import hook makes that import a quiet one, wherever it is.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from unfreeze.memory import one_memory_arena

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
LOUD = ("0", "1")  # information, warnings
ONLY_ERRORS = "2"


@contextmanager
def quiet_imports(*, show_log: bool) -> Iterator[None]:
    """Within the block, `import tensorflow` writes nothing on stderr.

    TensorFlow's lines are shown with `show_log`, or if the user has set TF_CPP_MIN_LOG_LEVEL to 0 or 1.
    """
    hook = TensorFlowFinder(show_log or os.environ.get(LOG_LEVEL) in LOUD)
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, hook)
    try:
        yield
    finally:
        hook.remove()


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow now, as a command would: for a program that measures or tests what comes after the import."""
    with quiet_imports(show_log=False):
        import tensorflow  # noqa: F401


class TensorFlowFinder(MetaPathFinder):
    """Finds `tensorflow` as Python does, but with a loader that imports it quietly."""

    def __init__(self, loud: bool) -> None:
        self.loud = loud

    def remove(self) -> None:
        """Removes this finder from Python's list, if it is still there."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the module's own spec with the quiet loader; None for every other module."""
        if fullname != "tensorflow":
            return None
        self.remove()
        spec = find_spec("tensorflow")
        if spec is not None and spec.loader is not None:
            spec.loader = QuietLoader(spec.loader, self.loud)
        return spec


class QuietLoader(Loader):
    """Loads TensorFlow by its own loader, without its lines and without what unfreeze does not use."""

    def __init__(self, loader: Loader, loud: bool) -> None:
        self.loader = loader
        self.loud = loud

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Creates the module as its own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module, and looks for devices: without a GPU, CUDA reports there that it has none."""
        os.environ.update(without_keras_variables())
        one_memory_arena()
        if not self.loud:
            # A 3 of the user stays; a 0 or 1 was shown above.
            os.environ.setdefault(LOG_LEVEL, ONLY_ERRORS)
        elif os.environ.get(LOG_LEVEL) not in LOUD:
            os.environ[LOG_LEVEL] = "0"
        with gc_paused(), h5py_hidden(), nullcontext() if self.loud else stderr_dropped():
            self.loader.exec_module(module)
            module.config.list_physical_devices()
        if not self.loud:
            module.get_logger().setLevel("ERROR")


def without_keras_variables() -> dict[str, str]:
    """Returns variables that keep TensorFlow from importing Keras, which unfreeze does not use: 0.2 s, 20 MB."""
    return {} if find_spec("tf_keras") else {"TF_USE_LEGACY_KERAS": "1"}


@contextmanager
def h5py_hidden() -> Iterator[None]:
    """Within the block, h5py seems not to be installed: TensorFlow imports it for Keras' files, which takes 11 MB."""
    hidden = "h5py" not in sys.modules
    if hidden:
        sys.modules["h5py"] = None  # type: ignore[assignment]  # how the import system marks a missing module
    try:
        yield
    finally:
        if hidden:
            del sys.modules["h5py"]


@contextmanager
def gc_paused() -> Iterator[None]:
    """Within the block no garbage is collected, and later collections skip the objects made in it: they all stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def stderr_dropped() -> Iterator[None]:
    """Drops what is written to file descriptor 2 within the block, unless the block raises an error."""
    sys.stderr.flush()
    try:
        original = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    with tempfile.TemporaryFile() as dropped:
        os.dup2(dropped.fileno(), 2)
        try:
            yield
        except Exception:  # but not Ctrl-C, which needs no explanation
            sys.stderr.flush()
            dropped.seek(0)
            os.write(original, dropped.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
