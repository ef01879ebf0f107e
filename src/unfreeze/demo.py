"""Exports, verifies and runs an example: a detector of digits that was trained with the Object Detection API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import CheckpointError, OutputError
from unfreeze.exporting.export import export

if TYPE_CHECKING:
    from unfreeze.exporting.job import Exported
    from unfreeze.prediction.predict import Prediction
    from unfreeze.server.process import Server

PACKAGED_EXAMPLE = Path(__file__).parent / "demo_data"  # in an installed package (pyproject.toml, force-include)
CHECKOUT_EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
EXAMPLE_FILES = ("run", "scenes", "pipeline.config", "label_map.pbtxt")
MAGNIFY = 4  # the example's images are 160 pixels wide


@dataclass(frozen=True)
class Demo:
    """The results of the demo and their paths."""

    exported: Exported
    predictions: list[Prediction]
    detections_json: Path
    images: Path

    def __str__(self) -> str:
        return "\n".join(
            [
                "detections:",
                *(f"  {prediction}" for prediction in self.predictions),
                f"SavedModel: {self.exported.saved_model} (exported and verified)",
                f"as JSON:    {self.detections_json}",
                f"images:     {self.images}",
            ]
        )


def demo(
    folder: str | Path | None = None,
    output_directory: str | Path = "unfreeze-demo",
    *,
    overwrite: bool = False,
    on_progress: OnMessage = ignore,
    on_warning: OnMessage = ignore,
) -> Demo:
    """Exports the checkpoint of an example, verifies the result, and runs it on the example's images.

    Args:
        folder: a folder with run/, scenes/, pipeline.config and label_map.pbtxt; by default the example that comes with
            unfreeze.
        output_directory: the folder for exported/, images/ and detections.json.
        overwrite: replace the files of an earlier demo.
        on_progress, on_warning: called with each step that begins, and with each warning.

    Raises: CheckpointError if `folder` is not such an example, and the errors of `export` and `predict`.
    """
    example = example_folder(folder)
    target = Path(output_directory)
    exported = export(
        example / "run",
        pipeline_config_path=example / "pipeline.config",
        label_map=example / "label_map.pbtxt",
        output_directory=target / "exported",
        overwrite=overwrite,
        on_progress=on_progress,
        on_warning=on_warning,
    )
    # Imported after `export` has checked its options, since it imports Pillow and TensorFlow.
    from unfreeze.prediction.predict import predict_files

    predictions = predict_files(
        exported.saved_model,
        sorted((example / "scenes").glob("*.png")),
        output_directory=target / "images",
        magnify=MAGNIFY,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    detections_json = target / "detections.json"
    detections_json.write_text(
        json.dumps([prediction.to_dict() for prediction in predictions], indent=2) + "\n", encoding="utf-8"
    )
    return Demo(exported, predictions, detections_json, target / "images")


def serve_page(demo: Demo) -> tuple[Server, str]:
    """Serves the exported model and returns the server, to be stopped, and the address of its web page.

    The server listens on the usual port, or on a free one if that is taken.
    """
    from unfreeze.server import serve

    try:
        server = serve.start_server(demo.exported.folder, model_name="digits", port=None)
    except OutputError:  # the usual port is taken
        server = serve.start_server(demo.exported.folder, model_name="digits", port=None, rest_api_port=0)
    return server, serve.page_address(server) or ""


def example_folder(folder: str | Path | None) -> Path:
    """Returns the folder of the example: `folder`, or by default the one in the package or in the checkout.

    Raises: CheckpointError if a file of the example is missing.
    """
    default = PACKAGED_EXAMPLE if PACKAGED_EXAMPLE.is_dir() else CHECKOUT_EXAMPLE
    example = Path(folder) if folder is not None else default
    missing = [name for name in EXAMPLE_FILES if not (example / name).exists()]
    if missing:
        raise CheckpointError(
            f"{example}: not an example for the demo ({', '.join(missing)} missing). "
            "Pass a folder like examples/digits, or none."
        )
    return example
