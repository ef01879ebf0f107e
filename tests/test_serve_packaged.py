"""The output of `package tensorflow-serving`, served by `unfreeze serve`, and by tensorflow_model_server if it exists.

The command is the one in compose.yaml, with the folders of the container replaced by local ones.
"""

import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import wait_until

from unfreeze import export, package_tensorflow_serving, predict

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
MODEL_SERVER = shutil.which("tensorflow_model_server")
SERVERS = {"unfreeze": [sys.executable, "-m", "unfreeze", "serve"], "tensorflow_model_server": [MODEL_SERVER or ""]}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    exported = export(DIGITS / "run", output_directory=folder / "export", verify=False)
    return package_tensorflow_serving(exported.saved_model, folder / "package", name="digits").folder


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def started(server: list[str], package: Path, ports: tuple[int, int]) -> Iterator[None]:
    """Runs the server of compose.yaml on two ports, of gRPC and of REST."""
    yaml = pytest.importorskip("yaml")
    command = yaml.safe_load((package / "compose.yaml").read_text())["services"]["serving"]["command"]
    config = package / "local.config"
    config.write_text((package / "models.config").read_text().replace("/models/", f"{package / 'models'}/"))
    replacements = {"/config/models.config": str(config), "/config/": f"{package}/", "=8500": f"={ports[0]}"}
    replacements["=8501"] = f"={ports[1]}"
    for container_path, local_path in replacements.items():
        command = [flag.replace(container_path, local_path) for flag in command]
    process = subprocess.Popen([*server, *command])
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("name", SERVERS)
def test_responses_of_the_package_equal_those_of_the_folder(package: Path, name: str) -> None:
    if not SERVERS[name][0]:
        pytest.skip(f"{name} is not on PATH")
    grpc, rest = free_port(), free_port()

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{rest}/v1/models/digits/metadata") as response:
                return response.status == 200
        except OSError:
            return False

    images = sorted((DIGITS / "scenes").glob("*.png"))[:2]
    local = predict(package / "models" / "digits" / "1", images, draw=False)
    with started(SERVERS[name], package, (grpc, rest)):
        wait_until(ready, "the model is served")
        for address in (f"http://127.0.0.1:{rest}/v1/models/digits", f"grpc://127.0.0.1:{grpc}/digits"):
            remote = predict(address, images, draw=False)
            for expected, actual in zip(local, remote, strict=True):
                assert expected.detections
                for local_detection, remote_detection in zip(expected.detections, actual.detections, strict=True):
                    assert remote_detection.name == local_detection.name
                    assert remote_detection.box == pytest.approx(local_detection.box, abs=1e-5)
                    assert remote_detection.score == pytest.approx(local_detection.score, abs=1e-5)
        with urllib.request.urlopen(f"http://127.0.0.1:{rest}/monitoring/prometheus/metrics") as page:
            assert b"digits" in page.read()
