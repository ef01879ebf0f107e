"""The whole way on a detector that was really trained: export, proof, pictures with detections."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import CheckpointError, OutputError
from unfreeze.exporting.from_checkpoint import Exported, export_checkpoint
from unfreeze.prediction.predict import Prediction, predict_files

if TYPE_CHECKING:
    from unfreeze.server.process import Server

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"  # there in a checkout, not in an installed package
MAGNIFY = 4  # the example's pictures are 160 pixels wide


@dataclass(frozen=True)
class Demo:
    """What the demo made, and where."""

    exported: Exported
    predictions: list[Prediction]
    detections_json: Path

    def __str__(self) -> str:
        return "\n".join(
            [
                "found:",
                *(f"  {prediction}" for prediction in self.predictions),
                f"SavedModel: {self.exported.saved_model} (exported and verified)",
                f"detections: {self.detections_json}",
                f"pictures:   {self.detections_json.parent / 'pictures'}",
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
    """Export `folder`/run, verify the result, and run it on each picture in `folder`/scenes.

    Raises: CheckpointError when `folder` is not such an example; whatever `export` and `predict` raise.
    """
    example = example_folder(folder)
    target = Path(output_directory)
    exported = export_checkpoint(
        example / "run",
        pipeline_config_path=example / "pipeline.config",
        label_map=example / "label_map.pbtxt",
        output_directory=target / "exported",
        overwrite=overwrite,
        on_progress=on_progress,
        on_warning=on_warning,
    )
    predictions = predict_files(
        exported.saved_model,
        sorted((example / "scenes").glob("*.png")),
        output_directory=target / "pictures",
        magnify=MAGNIFY,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    found = target / "detections.json"
    found.write_text(json.dumps([prediction.to_dict() for prediction in predictions], indent=2) + "\n")
    return Demo(exported, predictions, found)


def serve_page(shown: Demo) -> tuple[Server, str]:
    """Serve what was exported, at the usual port or a free one -> the server, to be stopped, and the page's address."""
    from unfreeze.server import serve

    try:
        running = serve.start_server(shown.exported.folder, model_name="digits", port=None)
    except OutputError:  # that port is taken
        running = serve.start_server(shown.exported.folder, model_name="digits", port=None, rest_api_port=0)
    return running, serve.page_address(running) or ""


def example_folder(folder: str | Path | None) -> Path:
    """The folder given, or the one in the checkout, once it is seen to be complete."""
    example = Path(folder) if folder is not None else EXAMPLE
    missing = [
        name for name in ("run", "scenes", "pipeline.config", "label_map.pbtxt") if not (example / name).exists()
    ]
    if missing and folder is None:
        raise CheckpointError(
            "the example is not part of an installed package: give the folder examples/digits of a checkout, "
            "as in: unfreeze demo examples/digits"
        )
    if missing:
        raise CheckpointError(f"{example} is not the demo's example: it lacks {', '.join(missing)}")
    return example
