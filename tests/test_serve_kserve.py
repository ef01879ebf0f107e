"""KServe's own client, which wants an older protobuf than TensorFlow: run with KSERVE_PYTHON, a Python that has it.

For example `python -m venv kserve && kserve/bin/pip install kserve`, then
`KSERVE_PYTHON=kserve/bin/python scripts/test tests/test_serve_kserve.py`.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from serving import config_of, send_request, serving, write_half_plus

CLIENT = """
import asyncio, json, sys
from kserve.inference_client import InferenceRESTClient, RESTConfig

async def main(url):
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    print(json.dumps({
        "live": await client.is_server_live(url),
        "ready": await client.is_model_ready(url, "half"),
        "response": await client.infer(url, {"instances": [1.0, 2.0]}, model_name="half"),
    }))
    try:
        await client.infer(url, {"instances": ["x"]}, model_name="half")
    except Exception as error:
        print(json.dumps(str(error)))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif("KSERVE_PYTHON" not in os.environ, reason="KSERVE_PYTHON is not set")
def test_client_of_kserve(tmp_path: Path) -> None:
    write_half_plus(tmp_path / "half" / "1", 2.0)
    with serving(config_of(half=tmp_path / "half")) as running:
        command = [os.environ["KSERVE_PYTHON"], "-c", CLIENT, f"http://127.0.0.1:{running.rest_port}"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        results, failed = map(json.loads, done.stdout.splitlines()[-2:])
    assert results == {"live": True, "ready": True, "response": {"predictions": [2.5, 3.0]}}
    assert "is not of expected type: float" in failed
    assert "400 Bad Request" in failed


def test_fields_that_the_client_of_kserve_reads(tmp_path: Path) -> None:
    write_half_plus(tmp_path / "half" / "1", 2.0)
    with serving(config_of(half=tmp_path / "half")) as running:
        assert send_request(running, "GET", "/")[1]["status"] == "alive"
        assert send_request(running, "GET", "/v1/models/half")[1]["ready"] is True
