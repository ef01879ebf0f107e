"""What `package tensorflow-serving` writes, served by `unfreeze serve`, and by tensorflow_model_server where that is.

The command is the one in compose.yaml, with the container's folders where they are here.
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
from serving import until

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
    """The server of compose.yaml, on these ports of gRPC and REST."""
    yaml = pytest.importorskip("yaml")
    told = yaml.safe_load((package / "compose.yaml").read_text())["services"]["serving"]["command"]
    config = package / "here.config"
    config.write_text((package / "models.config").read_text().replace("/models/", f"{package / 'models'}/"))
    places = {"/config/models.config": str(config), "/config/": f"{package}/", "=8500": f"={ports[0]}"}
    places["=8501"] = f"={ports[1]}"
    for there, here in places.items():
        told = [flag.replace(there, here) for flag in told]
    process = subprocess.Popen([*server, *told])
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("name", SERVERS)
def test_it_answers_as_the_folder(package: Path, name: str) -> None:
    if not SERVERS[name][0]:
        pytest.skip(f"{name} is not on PATH")
    grpc, rest = free_port(), free_port()

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{rest}/v1/models/digits/metadata") as answer:
                return answer.status == 200
        except OSError:
            return False

    pictures = sorted((DIGITS / "scenes").glob("*.png"))[:2]
    local = predict(package / "models" / "digits" / "1", pictures, draw=False)
    with started(SERVERS[name], package, (grpc, rest)):
        until(ready, "the model is served")
        for address in (f"http://127.0.0.1:{rest}/v1/models/digits", f"grpc://127.0.0.1:{grpc}/digits"):
            remote = predict(address, pictures, draw=False)
            for here, there in zip(local, remote, strict=True):
                assert here.detections
                assert [each.name for each in there.detections] == [each.name for each in here.detections]
                for ours, theirs in zip(here.detections, there.detections, strict=True):
                    assert theirs.box == pytest.approx(ours.box, abs=1e-5)
                    assert theirs.score == pytest.approx(ours.score, abs=1e-5)
        with urllib.request.urlopen(f"http://127.0.0.1:{rest}/monitoring/prometheus/metrics") as page:
            assert b"digits" in page.read()
