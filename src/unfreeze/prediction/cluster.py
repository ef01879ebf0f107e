"""Runs the shards on a Ray cluster: each actor loads the model once, and is assigned two shards at a time.

Ray Core, not Ray Data: an actor writes the part of a shard atomically, under a name of its own, so a shard that is run
twice is stored once, and a lost worker or node costs only the shards that it had. Only names and counts of shards pass
through Ray, so no queue can grow.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze import onednn
from unfreeze.callbacks import OnMessage
from unfreeze.errors import ConfigError, MissingExtraError, OutputError, RemoteError, UnfreezeError, UnsupportedError
from unfreeze.formatting import first_line
from unfreeze.prediction.addresses import is_address
from unfreeze.prediction.backends import open_backend
from unfreeze.prediction.batches import PredictOptions, ShardRunner
from unfreeze.prediction.class_names import Names
from unfreeze.prediction.shards import SETTINGS, Shard, write_part
from unfreeze.prediction.store import Store

SHARDS_PER_ACTOR = 2  # two, so that an actor begins the next shard while it ends the last
MAX_TRIES = 10  # a shard that this many actors die of ends the run
MAX_FAILED_STARTS = 3  # per actor: how many may die in a row before they are ready
OBJECT_STORE_BYTES = 100 * 2**20  # the size of Ray's object store, in addition to the model


@dataclass(frozen=True)
class Cluster:
    """The cluster to use, and how much of it.

    Without an address it is a cluster of this machine alone; a number that is None means as many as fit.
    """

    address: str | None = None
    actors: int | None = None
    cpus_per_actor: int | None = None
    gpus_per_actor: float = 0


@dataclass(frozen=True)
class ShippedModel:
    """A model as it is sent to the nodes: the files of a folder, one file with its name, or an address."""

    name: str  # empty for a folder
    files: Mapping[str, bytes]

    @contextmanager
    def unpacked(self) -> Iterator[str]:
        """Yields the path of the model on this machine, or its address."""
        if not self.files:
            yield self.name
            return
        folder = Path(tempfile.mkdtemp(prefix="unfreeze-"))
        try:
            for name, content in self.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            yield str(folder / self.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def ship_model(model: str) -> ShippedModel:
    """Returns a model's files, or its address."""
    path = Path(model)
    if is_address(model):
        return ShippedModel(model, {})
    if path.is_file():
        return ShippedModel(path.name, {path.name: path.read_bytes()})
    files = (file for file in path.rglob("*") if file.is_file())
    return ShippedModel("", {file.relative_to(path).as_posix(): file.read_bytes() for file in files})


class Worker:
    """An actor, which loads the model once and runs shards."""

    def __init__(
        self,
        model: ShippedModel,
        names: Names,
        options: PredictOptions,
        store: Store,
        threads: int,
        *,
        owns_process: bool = False,
    ) -> None:
        self.model, self.names, self.options, self.store, self.threads = model, names, options, store, threads
        if owns_process:
            onednn.own_process()

    def prepare(self, first_image: str) -> None:
        """Loads the model. Raises: SavedModelError; OutputError or ConfigError if this node does not see the paths."""
        host = socket.gethostname()
        advice = "Pass a folder that all nodes share, or a URL."
        if not self.store.exists(SETTINGS):
            raise OutputError(f"{self.store.url} does not exist on {host}. {advice}")
        if "://" not in first_image and not os.path.isdir(os.path.dirname(first_image)):
            raise ConfigError(f"{first_image} does not exist on {host}. {advice}")
        with self.model.unpacked() as model:
            backend = open_backend(model, self.options.min_score, self.options.batch_size, self.threads)
        self.model = ShippedModel("", {})  # frees the files
        decoders, callers = ThreadPoolExecutor(max(2, self.threads)), ThreadPoolExecutor(backend.threads)
        self.runner = ShardRunner(backend, self.names, self.options, self.store, decoders, callers)

    def run_shard(self, shard: Shard) -> int:
        """Runs a shard, writes its part, and returns the number of its records."""
        [(_, lines)] = self.runner.run_shards([shard])
        write_part(self.store, shard, lines)
        return len(lines)


def run_on_ray(
    shards: Sequence[Shard],
    model: str,
    names: Names,
    options: PredictOptions,
    store: Store,
    cluster: Cluster,
    on_images: Callable[[int], None],
    on_progress: OnMessage,
) -> None:
    """Runs the shards on the actors of a cluster.

    Raises: the error of a worker; RemoteError if workers die again and again.
    """
    ray = import_ray()
    if store.url.startswith("memory://"):
        raise UnsupportedError(
            f"not supported yet: {store.url} with --engine ray, whose workers cannot see it. Choose another store."
        )
    shipped = ship_model(model)
    on_progress("connecting to Ray")
    with connected(ray, cluster.address, sum(map(len, shipped.files.values()))):
        cpus, count = plan_actors(ray.nodes(), cluster)
        actor_class = ray.remote(Worker).options(
            num_cpus=cpus,
            num_gpus=cluster.gpus_per_actor,
            max_restarts=0,
            max_concurrency=SHARDS_PER_ACTOR,
            runtime_env={"env_vars": onednn.worker_environment()},  # TensorFlow is imported with the class
        )
        arguments = (ray.put(shipped), dict(names), options, store, cpus)
        on_progress("loading the model in the workers")
        distribute(
            ray, lambda: actor_class.remote(*arguments, owns_process=True), min(count, len(shards)), shards, on_images
        )


def distribute(
    ray: Any, start_actor: Callable[[], Any], count: int, shards: Sequence[Shard], on_images: Callable[[int], None]
) -> None:
    """Keeps `count` actors busy until every shard is done; the shards of an actor that died go to the others.

    An actor is assigned shards only once it is ready, so that none waits for resources with shards assigned.
    """
    queue, tries, remaining = deque(shards), Counter[int](), len(shards)
    pending: dict[Any, tuple[Any, Shard | None]] = {}  # awaited result -> actor, and shard if it runs one
    assigned: dict[Any, int] = {}  # ready actor -> how many shards it has
    failed_starts = 0

    def add_actor() -> None:
        actor = start_actor()
        pending[actor.prepare.remote(shards[0].sources[0].location)] = (actor, None)

    for _ in range(count):
        add_actor()
    while remaining:
        [reference], _ = ray.wait(list(pending), num_returns=1)
        actor, shard = pending.pop(reference)
        try:
            images = ray.get(reference)
        except actor_errors(ray) as error:
            if shard is not None:
                queue.appendleft(shard)
                tries[shard.number] += 1
                if tries[shard.number] == MAX_TRIES:
                    names = f"{shard.sources[0].name} to {shard.sources[-1].name}"
                    raise RemoteError(
                        f"{MAX_TRIES} workers died of the images {names}: {first_line(error)}. Remove these images."
                    ) from None
            else:
                failed_starts += 1
                if failed_starts == MAX_FAILED_STARTS * count:
                    raise RemoteError(
                        f"workers die while they load the model: {first_line(error)}. Run fewer --actors."
                    ) from None
            if shard is None or assigned.pop(actor, None) is not None:  # its other shard fails later, in this loop
                add_actor()
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UnfreezeError) else error) from None
        else:
            failed_starts = 0
            assigned[actor] = assigned.get(actor, 1) - 1
            if shard is not None:
                remaining -= 1
                on_images(images)
        # All actors, not this one alone: the shards of one that died may go to an actor that is idle.
        for actor in sorted(assigned, key=lambda actor: assigned[actor]):
            while queue and assigned[actor] < SHARDS_PER_ACTOR:
                shard = queue.popleft()
                assigned[actor] += 1
                pending[actor.run_shard.remote(shard)] = (actor, shard)


def actor_errors(ray: Any) -> tuple[type[Exception], ...]:
    """Returns the errors that mean that an actor is lost."""
    errors = ray.exceptions
    return (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError, errors.NodeDiedError)


def import_ray() -> Any:
    """Returns the module `ray`. Raises: MissingExtraError."""
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("--engine ray needs Ray: pip install 'unfreeze[ray]'") from None
    return ray


@contextmanager
def connected(ray: Any, address: str | None, model_bytes: int) -> Iterator[None]:
    """Connects to the cluster at an address, or starts one on this machine for as long as the block runs."""
    if ray.is_initialized():  # the caller has connected
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address or os.environ.get("RAY_ADDRESS"):
            ray.init(address=address or "auto", **quiet)
        else:
            memory = OBJECT_STORE_BYTES + 2 * model_bytes
            ray.init(address="local", include_dashboard=False, object_store_memory=memory, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise RemoteError(
            f"no Ray cluster at {address or 'this machine'}: {first_line(error)}. Start it, or pass another --address."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def plan_actors(nodes: Sequence[Mapping[str, Any]], cluster: Cluster) -> tuple[int, int]:
    """Returns how many CPUs an actor gets, by default two, and how many actors to start, by default as many as fit."""
    sizes = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    cpus = cluster.cpus_per_actor or min(2, max(sizes, default=1)) or 1
    count = cluster.actors or sum(size // cpus for size in sizes)
    if not count:
        raise ConfigError(
            f"no node has {cpus} CPUs (the largest has {max(sizes, default=0)}). Choose a lower --cpus-per-actor."
        )
    return cpus, count
