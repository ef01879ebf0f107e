"""The layering: compares every import of the package with one table."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "unfreeze"

# Modules of the top level that every package may import: each has one subject and knows no package.
GROUND = {
    "cached_weights", "callbacks", "child_process", "errors", "export_record", "file_kinds", "flatbuffer", "formatting",
    "html_page", "input_types", "memory", "onednn", "protobuf_pool", "protobuf_wire", "staging", "version",
    "version_folders", "warmup_records",
}  # fmt: skip

# Package or top-level module -> what it may import, besides itself and GROUND. An entry may only name entries below it.
MAY_IMPORT = {
    "__main__": {"cli"},
    "export_inference_graph": {"cli"},
    "exporter_main_v2": {"cli"},
    "export_tflite_graph_tf2": {"cli"},
    "export_tflite_ssd_graph": {"cli"},
    "cli": {
        "", "benchmarking", "comparison", "demo", "evaluation", "exporting", "formats", "images", "inspection",
        "model_paths", "prediction", "publishing", "runtimes", "server", "targets", "verification", "weights",
    },
    "": {  # unfreeze/__init__.py, inside functions
        "benchmarking", "comparison", "evaluation", "exporting", "inspection", "loaded_detector", "prediction",
        "publishing", "server", "targets",
    },
    "demo": {"exporting", "prediction", "server"},
    "benchmarking": {"evaluation", "images", "prediction", "runtimes", "verification"},
    "comparison": {
        "config", "exporting", "graphs", "inspection", "model_paths", "runtimes", "verification", "weights",
    },
    "publishing": {"evaluation", "exporting", "model_paths", "runtimes", "targets", "verification", "weights"},
    "exporting": {
        "config", "detectors", "evaluation", "formats", "graphs", "images", "inspection", "model_paths", "prediction",
        "runtimes", "savedmodel", "targets", "tensorrt", "tfjs", "tflite", "verification", "weights",
    },
    "inspection": {
        "config", "detectors", "graphs", "model_paths", "runtimes", "savedmodel", "targets", "verification", "weights",
    },
    "formats": {"savedmodel", "tensorrt", "tfjs", "tflite", "weights"},
    "tfjs": set(),
    "tensorrt": {"config", "detectors", "ops"},
    "tflite": {"config", "detectors", "graphs"},
    "loaded_detector": {"config", "detectors", "model_paths", "savedmodel", "weights"},
    "savedmodel": {"detectors", "graphs", "ops", "weights"},
    "detectors": {"backbones", "config", "heads", "necks", "ops", "weights"},
    "backbones": {"ops"},
    "necks": {"ops"},
    "heads": {"ops"},
    "ops": set(),
    "targets": {"model_paths", "prediction", "runtimes", "verification"},
    "verification": {"graphs", "images", "prediction", "runtimes"},
    "server": {"model_paths", "runtimes", "web"},
    "web": {"config"},
    "evaluation": {"config", "images", "model_paths", "prediction", "runtimes"},
    "prediction": {"config", "images", "model_paths", "runtimes"},
    "runtimes": {"graphs", "images", "model_paths"},
    "images": set(),
    "graphs": set(),
    "model_paths": {"weights"},
    "weights": set(),
    "config": set(),
    **dict.fromkeys(GROUND, GROUND),
}  # fmt: skip

# These run before TensorFlow is imported: they may import it inside functions only.
STARTS_FAST = {
    "", "__main__", "cli", "config", "export_inference_graph", "export_tflite_graph_tf2", "export_tflite_ssd_graph",
    "exporter_main_v2", "model_paths", *GROUND,
}  # fmt: skip
HEAVY = {"PIL", "numpy", "rich", "tensorflow"}

FORBIDDEN_NAMES = {"base", "common", "helpers", "manager", "misc", "shared", "util", "utils"}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def package_of(module: Path) -> str:
    """Returns the package of a module: `ops` for `ops/boxes.py`, `demo` for `demo.py`, `` for unfreeze/__init__.py."""
    parts = module.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py").replace("__init__", "")


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yields the full name of everything imported in a tree, with its line; for `from a import b` the name is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


def packages_imported(module: Path) -> Iterator[tuple[str, int]]:
    for name, line in imported(ast.parse(module.read_text(encoding="utf-8"))):
        assert not name.startswith("."), f"{module}:{line}: imports are written in full: {name}"
        parts = name.split(".")
        if parts[0] == "unfreeze":
            is_part_of_package = len(parts) > 1 and (parts[1] in MAY_IMPORT or (SOURCE / f"{parts[1]}.py").exists())
            yield (parts[1] if is_part_of_package else ""), line


def forbidden_imports(module: Path) -> list[str]:
    package = package_of(module)
    allowed = MAY_IMPORT[package] | {package, *GROUND}
    return [
        f"{module.relative_to(SOURCE)}:{line}: {package or 'unfreeze'} may not import {other or 'unfreeze itself'}"
        for other, line in packages_imported(module)
        if other not in allowed
    ]


def at_module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yields the statements that run when the module is imported, which those below `if TYPE_CHECKING:` do not."""
    for statement in tree.body:
        if not isinstance(statement, ast.If):
            yield statement


def test_every_package_is_in_the_table() -> None:
    assert {package_of(module) for module in modules()} <= set(MAY_IMPORT)


def test_imports_point_downward() -> None:
    order = list(MAY_IMPORT)
    upward = [
        f"{package or 'unfreeze'} -> {other}"
        for package, others in MAY_IMPORT.items()
        for other in others - GROUND
        if other != package and order.index(other) < order.index(package)
    ]
    assert upward == []


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.relative_to(SOURCE)))
def test_module_imports_only_what_its_package_may(module: Path) -> None:
    assert forbidden_imports(module) == []


@pytest.mark.parametrize(
    "module", [module for module in modules() if package_of(module) in STARTS_FAST], ids=lambda module: module.name
)
def test_fast_modules_import_nothing_heavy_at_module_level(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {
        name.split(".")[0]
        for statement in at_module_level(tree)
        if not isinstance(statement, functions)
        for name, _ in imported(statement)
    }
    assert not names & HEAVY


def test_packages_are_two_levels_deep() -> None:
    deeper = [str(module) for module in modules() if len(module.relative_to(SOURCE).parts) > 2]
    assert deeper == []


def test_names_of_modules_and_classes_mean_something() -> None:
    stems = {part.removesuffix(".py") for module in modules() for part in module.relative_to(SOURCE).parts}
    assert not stems & FORBIDDEN_NAMES
    classes = [
        node.name
        for module in modules()
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name in classes if name.endswith(("Manager", "Helper", "Util", "Utils"))] == []


def test_forbidden_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ops").mkdir()
    bad = tmp_path / "ops" / "boxes.py"
    bad.write_text(
        "def f():\n    from unfreeze import weights\n    import unfreeze.errors\n    from unfreeze import PUBLIC\n"
    )
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    assert forbidden_imports(bad) == [
        f"{Path('ops') / 'boxes.py'}:2: ops may not import weights",
        f"{Path('ops') / 'boxes.py'}:4: ops may not import unfreeze itself",
    ]
