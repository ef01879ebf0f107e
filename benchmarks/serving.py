"""Throughput of `unfreeze serve` beside the SavedModel called directly with the same batches, on loopback.

    python benchmarks/serving.py SAVED_MODEL_FOLDER PICTURE [--batch 8] [--clients 24] [--pictures 1] [--seconds 20]

The direct side runs in one process, in as many threads as the server has batch threads; the server in another, the
clients in a third. All share the machine's cores, so besides pictures per second it tells the processor time that a
picture costs on each side, which the clients do not blur.

The direct side sets TF_ENABLE_ONEDNN_OPTS and TF_ONEDNN_ASSUME_FROZEN_WEIGHTS as the command `unfreeze serve` does,
unless you set them; a line of the output says how they were set.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from onednn_settings import onednn_variables

from unfreeze.onednn import assume_frozen_weights, enable_for_command

SIGNATURE = "encoded_image_string_tensor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--pictures", type=int, default=1, help="In one request.")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="That run batches, on both sides.")
    parser.add_argument("--part", choices=["direct", "clients"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "direct":
        print(json.dumps(direct(given)))
    elif given.part == "clients":
        print(json.dumps(clients(given)))
    else:
        report(given)


def report(given: argparse.Namespace) -> None:
    alone = part(given, "direct")
    served = with_server(given)
    print("oneDNN on both sides:", ", ".join(f"{name}={value}" for name, value in alone["onednn"].items()))
    for name, side in (("SavedModel", alone), ("unfreeze serve", served)):
        cpu_ms = side["cpu_s"] / side["pictures"] * 1000
        print(f"{name:15} {side['pictures'] / side['seconds']:8.1f} pictures/s {cpu_ms:8.2f} ms CPU per picture")
    ratio = (alone["cpu_s"] / alone["pictures"]) / (served["cpu_s"] / served["pictures"])
    print(f"throughput that the server's processor time allows, to the SavedModel's: {ratio:.3f}")
    print(f"served / direct, clients on the same cores: {rate(served) / rate(alone):.3f}; failed: {served['failed']}")


def rate(side: dict[str, Any]) -> float:
    return side["pictures"] / side["seconds"]


def part(given: argparse.Namespace, name: str, *more: str) -> dict[str, Any]:
    options = [f"--{key}={getattr(given, key)}" for key in ("batch", "clients", "pictures", "seconds", "threads")]
    command = [sys.executable, __file__, str(given.saved_model), str(given.picture), *options, "--part", name, *more]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def direct(given: argparse.Namespace) -> dict[str, Any]:
    enable_for_command()
    import tensorflow as tf

    assume_frozen_weights(given.saved_model)
    model = tf.saved_model.load(str(given.saved_model))
    call = model.signatures[SIGNATURE]
    [name] = call.structured_input_signature[1]
    batch = tf.constant([given.picture.read_bytes()] * given.batch)
    counts = [0] * given.threads

    def work(index: int, end: float) -> None:
        while time.perf_counter() < end:
            answered = call(**{name: batch})
            _ = [value.numpy() for value in answered.values()]
            counts[index] += given.batch

    run_threads(given.threads, work, 3.0)
    counts[:] = [0] * given.threads
    cpu, started = time.process_time(), time.perf_counter()
    run_threads(given.threads, work, given.seconds)
    return {
        "pictures": sum(counts), "seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu,
        "onednn": onednn_variables(),
    }  # fmt: skip


def run_threads(count: int, work: Any, seconds: float) -> None:
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=work, args=(index, end)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def with_server(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(given.saved_model, Path(folder) / "model" / "1")
        parameters = Path(folder) / "batching.txt"
        parameters.write_text(
            f"max_batch_size {{ value: {given.batch} }} batch_timeout_micros {{ value: 200000 }}\n"
            f"num_batch_threads {{ value: {given.threads} }} max_enqueued_batches {{ value: 100 }}\n"
        )
        port = free_port()
        flags = [
            "--port",
            str(port),
            "--rest-api-port=0",
            "--enable-batching",
            f"--batching-parameters-file={parameters}",
        ]
        command = [sys.executable, "-m", "unfreeze", "serve", str(Path(folder) / "model"), "--model-name=m", *flags]
        server = subprocess.Popen(command)
        try:
            return part(given, "clients", "--port", str(port)) | {"server": server.pid}
        finally:
            server.terminate()
            server.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def clients(given: argparse.Namespace) -> dict[str, Any]:
    """Closed-loop gRPC clients; the server's processor time is read from /proc."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    channels = [
        grpc.insecure_channel(f"127.0.0.1:{given.port}", [("grpc.use_local_subchannel_pool", 1)]) for _ in range(2)
    ]
    stubs = [prediction_service_pb2_grpc.PredictionServiceStub(channel) for channel in channels]
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", SIGNATURE
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([given.picture.read_bytes()] * given.pictures))
    stubs[0].Predict(request, wait_for_ready=True, timeout=120)
    counts, failed = [0] * given.clients, [0] * given.clients

    def work(index: int, end: float) -> None:
        while time.perf_counter() < end:
            try:
                stubs[index % 2].Predict(request, timeout=60)
                counts[index] += given.pictures
            except grpc.RpcError:
                failed[index] += 1

    run_threads(given.clients, work, 3.0)
    counts[:], failed[:] = [0] * given.clients, [0] * given.clients
    cpu, started = server_cpu_s(given.port), time.perf_counter()
    run_threads(given.clients, work, given.seconds)
    return {
        "pictures": sum(counts), "failed": sum(failed), "seconds": time.perf_counter() - started,
        "cpu_s": server_cpu_s(given.port) - cpu,
    }  # fmt: skip


def server_cpu_s(port: int) -> float:
    """Processor time of the process that was started with this port."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and str(port).encode() in words:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    raise SystemExit("the server is not there")


if __name__ == "__main__":
    main()
