"""Throughput of `unfreeze serve` beside the SavedModel called directly with the same batches, on loopback.

    python benchmarks/serving.py SAVED_MODEL_FOLDER IMAGE [--batch 8] [--clients 24] [--images 1] [--seconds 20]

The direct side runs in one process, in as many threads as the server has batch threads; the server in another, the
clients in a third. All share the machine's cores, so the output has images per second, and the CPU time per image on
each side, which does not include the clients.

The direct side sets TF_ENABLE_ONEDNN_OPTS and TF_ONEDNN_ASSUME_FROZEN_WEIGHTS as the command `unfreeze serve` does,
unless you set them; a line of the output says how they were set.

    python benchmarks/serving.py SAVED_MODEL_FOLDER IMAGE --request-log [--rounds 20] --seconds 3

measures the cost of a log of every request instead: one server, with the log in every other round.
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
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from onednn_settings import onednn_variables

from unfreeze.onednn import assume_frozen_weights, enable_for_command

SIGNATURE = "encoded_image_string_tensor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--images", type=int, default=1, help="Images per request.")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="Batch threads on each side.")
    parser.add_argument("--request-log", action="store_true", help="Measure the cost of a request log.")
    parser.add_argument("--rounds", type=int, default=20, help="Rounds with the log, and as many without.")
    parser.add_argument("--part", choices=["direct", "clients", "request-log"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "direct":
        print(json.dumps(direct(options)))
    elif options.part == "clients":
        print(json.dumps(clients(options)))
    elif options.part == "request-log":
        print(json.dumps(request_log_rounds(options)))
    elif options.request_log:
        report_request_log(options)
    else:
        report(options)


def report(options: argparse.Namespace) -> None:
    alone = part(options, "direct")
    served = with_server(options)
    print("oneDNN on both sides:", ", ".join(f"{name}={value}" for name, value in alone["onednn"].items()))
    for name, side in (("SavedModel", alone), ("unfreeze serve", served)):
        cpu_ms = side["cpu_s"] / side["images"] * 1000
        print(f"{name:15} {side['images'] / side['seconds']:8.1f} images/s {cpu_ms:8.2f} ms CPU per image")
    ratio = (alone["cpu_s"] / alone["images"]) / (served["cpu_s"] / served["images"])
    print(f"ratio of throughput, by CPU time without the clients: {ratio:.3f}")
    print(f"served / direct, clients on the same cores: {rate(served) / rate(alone):.3f}; failed: {served['failed']}")


def report_request_log(options: argparse.Namespace) -> None:
    """Prints the medians without and with a log of every request, and those of the ratios of neighboring rounds."""
    rounds = with_server(options, "request-log")["rounds"]
    pairs = list(zip(rounds[::2], rounds[1::2], strict=True))
    for name, sides in (("no log", rounds[::2]), ("request log", rounds[1::2])):
        images_per_s, cpu_ms = median(map(rate, sides)), median(map(cpu_ms_per_image, sides))
        failed = sum(side["failed"] for side in sides)
        print(f"{name:12} {images_per_s:8.1f} images/s {cpu_ms:8.2f} ms CPU per image; failed: {failed}")
    for name, value in (("throughput", rate), ("CPU time", cpu_ms_per_image)):
        ratios = sorted(value(logged) / value(plain) for plain, logged in pairs)
        quartiles = f"{ratios[len(ratios) // 4]:.3f} to {ratios[3 * len(ratios) // 4]:.3f}"
        print(f"{name} with the log: {median(ratios):.3f} (half of {len(ratios)} pairs: {quartiles})")


def cpu_ms_per_image(side: dict[str, Any]) -> float:
    return side["cpu_s"] / side["images"] * 1000


def rate(side: dict[str, Any]) -> float:
    return side["images"] / side["seconds"]


def part(options: argparse.Namespace, name: str, *more: str) -> dict[str, Any]:
    flags = [
        f"--{key}={getattr(options, key)}" for key in ("batch", "clients", "images", "seconds", "threads", "rounds")
    ]
    command = [sys.executable, __file__, str(options.saved_model), str(options.image), *flags, "--part", name, *more]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def direct(options: argparse.Namespace) -> dict[str, Any]:
    enable_for_command()
    import tensorflow as tf

    assume_frozen_weights(options.saved_model)
    model = tf.saved_model.load(str(options.saved_model))
    call = model.signatures[SIGNATURE]
    [name] = call.structured_input_signature[1]
    batch = tf.constant([options.image.read_bytes()] * options.batch)
    counts = [0] * options.threads

    def work(index: int, end: float) -> None:
        while time.perf_counter() < end:
            outputs = call(**{name: batch})
            _ = [tensor.numpy() for tensor in outputs.values()]
            counts[index] += options.batch

    run_threads(options.threads, work, 3.0)
    counts[:] = [0] * options.threads
    cpu, started = time.process_time(), time.perf_counter()
    run_threads(options.threads, work, options.seconds)
    return {
        "images": sum(counts), "seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu,
        "onednn": onednn_variables(),
    }  # fmt: skip


def run_threads(count: int, work: Any, seconds: float) -> None:
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=work, args=(index, end)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def with_server(options: argparse.Namespace, clients_part: str = "clients") -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(options.saved_model, Path(folder) / "model" / "1")
        parameters = Path(folder) / "batching.txt"
        parameters.write_text(
            f"max_batch_size {{ value: {options.batch} }} batch_timeout_micros {{ value: 200000 }}\n"
            f"num_batch_threads {{ value: {options.threads} }} max_enqueued_batches {{ value: 100 }}\n"
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
            return part(options, clients_part, "--port", str(port), "--folder", folder)
        finally:
            server.terminate()
            server.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def clients(options: argparse.Namespace) -> dict[str, Any]:
    """Returns how many images closed-loop gRPC clients got, and the server's CPU time from /proc."""
    measure = client_runner(options)
    measure(3.0)
    return measure(options.seconds)


def request_log_rounds(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the same for rounds without and with a log of every request, in turns."""
    import grpc
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    measure = client_runner(options)
    stub = model_service_pb2_grpc.ModelServiceStub(grpc.insecure_channel(f"127.0.0.1:{options.port}"))
    folder, rounds = Path(options.folder), []
    measure(3.0)
    for number in range(2 * options.rounds):
        request = model_management_pb2.ReloadConfigRequest()
        model = request.config.model_config_list.config.add(name="m", base_path=str(folder / "model"))
        model.logging_config.log_collector_config.filename_prefix = str(folder / "requests")
        model.logging_config.sampling_config.sampling_rate = number % 2
        response = stub.HandleReloadConfigRequest(request)
        assert response.status.error_code == 0, response
        rounds.append(measure(options.seconds))
        for log in folder.glob("requests*.tfrecord"):
            log.unlink()
    return {"rounds": rounds}


def client_runner(options: argparse.Namespace) -> Callable[[float], dict[str, Any]]:
    """Returns a function that runs closed-loop gRPC clients for some seconds."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    channels = [
        grpc.insecure_channel(f"127.0.0.1:{options.port}", [("grpc.use_local_subchannel_pool", 1)]) for _ in range(2)
    ]
    stubs = [prediction_service_pb2_grpc.PredictionServiceStub(channel) for channel in channels]
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", SIGNATURE
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([options.image.read_bytes()] * options.images))
    stubs[0].Predict(request, wait_for_ready=True, timeout=120)
    counts, failed = [0] * options.clients, [0] * options.clients

    def work(index: int, end: float) -> None:
        while time.perf_counter() < end:
            try:
                stubs[index % 2].Predict(request, timeout=60)
                counts[index] += options.images
            except grpc.RpcError:
                failed[index] += 1

    def measure(seconds: float) -> dict[str, Any]:
        counts[:], failed[:] = [0] * options.clients, [0] * options.clients
        cpu, started = server_cpu_s(options.port), time.perf_counter()
        run_threads(options.clients, work, seconds)
        return {
            "images": sum(counts), "failed": sum(failed), "seconds": time.perf_counter() - started,
            "cpu_s": server_cpu_s(options.port) - cpu,
        }  # fmt: skip

    return measure


def server_cpu_s(port: int) -> float:
    """Returns the CPU time of the server process with this port on its command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and str(port).encode() in words:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    raise SystemExit(f"no server process with port {port} is running")


if __name__ == "__main__":
    main()
