"""The shards of a run over a Ray cluster: actors that hold the model, each given two shards at a time.

Ray Core, not Ray Data: a shard's part is written by the actor, whole and under a name of its own, so a shard that
is answered twice is there once, and losing a worker or a node costs nothing but giving its shards to another. Nothing
but the shards' names and counts goes through Ray, so there is nothing of which too much could pile up.
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
from unfreeze.errors import ConfigError, MissingExtraError, OutputError, RemoteError, UnfreezeError, UnsupportedError
from unfreeze.prediction.batches import Wish, answered, asker
from unfreeze.prediction.class_names import Names
from unfreeze.prediction.remote import is_address
from unfreeze.prediction.shards import SETTINGS, Shard, write_part
from unfreeze.prediction.store import Store

SHARDS_EACH = 2  # so that an actor begins the next while it ends the last; no more are under way
TRIES = 10  # a shard that takes so many actors down with it is to blame itself
FIRST_TRIES = 3  # for each actor, how many die in a row before they are ready
STORE_BYTES = 100 * 2**20  # of Ray's own object store, beside the model

SHOWN = 300  # characters of what Ray says

ModelFiles = dict[str, bytes]


@dataclass(frozen=True)
class Cluster:
    """Where and with how much: an address, None for this machine; None of the numbers means as many as fit."""

    address: str | None = None
    actors: int | None = None
    cpus_per_actor: int | None = None
    gpus_per_actor: float = 0


class Worker:
    """An actor: loads the model once, and answers shards."""

    def __init__(
        self,
        model: ModelFiles | str,
        names: Names,
        wish: Wish,
        store: Store,
        threads: int,
        *,
        owns_process: bool = False,
    ) -> None:
        self.given, self.names, self.wish, self.store, self.threads = model, names, wish, store, threads
        if owns_process:
            onednn.own_process()

    def prepare(self, a_picture: str) -> None:
        """Load the model. Raises: SavedModelError; OutputError, ConfigError when paths are not seen from here."""
        host = socket.gethostname()
        if not self.store.exists(SETTINGS):
            raise OutputError(f"{host} does not see {self.store.url}: give a folder that all nodes share, or a URL")
        if "://" not in a_picture and not os.path.isdir(os.path.dirname(a_picture)):
            raise ConfigError(f"{host} does not see {a_picture}: give a folder that all nodes share, or a URL")
        with unpacked(self.given) as model:
            self.asker = asker(model, self.names, self.wish, self.threads)
        self.given = ""
        self.pools = (ThreadPoolExecutor(max(2, self.threads)), ThreadPoolExecutor(self.asker.threads))

    def answer(self, shard: Shard) -> int:
        """Answer a shard and write its part. -> how many lines it has."""
        [(_, lines)] = answered([shard], self.asker, self.wish, self.store, self.pools)
        write_part(self.store, shard, lines)
        return len(lines)


@contextmanager
def unpacked(model: ModelFiles | str) -> Iterator[str]:
    """A SavedModel's files as a folder; an address as it is."""
    if isinstance(model, str):
        yield model
        return
    folder = Path(tempfile.mkdtemp(prefix="unfreeze-"))
    try:
        for name, content in model.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def on_ray(
    todo: Sequence[Shard],
    model: str,
    names: Names,
    wish: Wish,
    store: Store,
    advance: Callable[[int], None],
    cluster: Cluster,
    say: Callable[[str], None],
) -> None:
    """Answer the shards by a cluster's actors.

    Raises: what a worker raises; RemoteError when workers die again and again.
    """
    ray = ray_module()
    if store.url.startswith("memory://"):
        raise UnsupportedError(f"not supported yet: {store.url} with --engine ray, whose workers do not see it")
    shipped = model if is_address(model) else model_files(Path(model))
    size_bytes = 0 if isinstance(shipped, str) else sum(map(len, shipped.values()))
    say("connecting to Ray")
    with connected(ray, cluster.address, size_bytes):
        cpus, count = placed(ray.nodes(), cluster)
        actor_class = ray.remote(Worker).options(
            num_cpus=cpus,
            num_gpus=cluster.gpus_per_actor,
            max_restarts=0,
            max_concurrency=SHARDS_EACH,
            runtime_env={"env_vars": onednn.worker_environment()},  # TensorFlow is imported with the class
        )
        given = (ray.put(shipped), dict(names), wish, store, cpus)
        say("workers load the model")
        give(ray, lambda: actor_class.remote(*given, owns_process=True), min(count, len(todo)), todo, advance)


def give(ray: Any, hire: Callable[[], Any], count: int, todo: Sequence[Shard], advance: Callable[[int], None]) -> None:
    """Keep `count` actors busy until every shard is answered; what a dead one had goes to the others.

    An actor gets shards only once it is ready, so that none waits for a place in the cluster with work in its hands.
    """
    queue, tries, left = deque(todo), Counter[int](), len(todo)
    under_way: dict[Any, tuple[Any, Shard | None]] = {}  # a reference to what comes -> whose it is, and of what
    hands: dict[Any, int] = {}  # of each living actor, how many shards it has
    died_early = 0

    def take_on() -> None:
        actor = hire()
        under_way[actor.prepare.remote(todo[0].sources[0].location)] = (actor, None)

    for _ in range(count):
        take_on()
    while left:
        [reference], _ = ray.wait(list(under_way), num_returns=1)
        actor, shard = under_way.pop(reference)
        try:
            pictures = ray.get(reference)
        except lost(ray) as error:
            if shard is not None:
                queue.appendleft(shard)
                tries[shard.number] += 1
                if tries[shard.number] == TRIES:
                    names = f"{shard.sources[0].name} to {shard.sources[-1].name}"
                    raise RemoteError(f"{TRIES} workers died of the pictures {names}: {first_line(error)}") from None
            else:
                died_early += 1
                if died_early == FIRST_TRIES * count:
                    raise RemoteError(f"workers die while they load the model: {first_line(error)}") from None
            if shard is None or hands.pop(actor, None) is not None:  # its other shards come here too
                take_on()
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UnfreezeError) else error) from None
        else:
            died_early = 0
            hands[actor] = hands.get(actor, 1) - 1
            if shard is not None:
                left -= 1
                advance(pictures)
        # Those that were lost may go to an actor that had nothing left to do.
        for actor in sorted(hands, key=lambda actor: hands[actor]):
            while queue and hands[actor] < SHARDS_EACH:
                shard = queue.popleft()
                hands[actor] += 1
                under_way[actor.answer.remote(shard)] = (actor, shard)


def lost(ray: Any) -> tuple[type[Exception], ...]:
    """What is raised of an actor that is no more."""
    errors = ray.exceptions
    return (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError, errors.NodeDiedError)


def first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:SHOWN]


def ray_module() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("--engine ray needs Ray: pip install 'unfreeze[ray]'") from None
    return ray


def model_files(folder: Path) -> ModelFiles:
    """All of a SavedModel, which goes to each node once."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def connected(ray: Any, address: str | None, size_bytes: int) -> Iterator[None]:
    """A connection to the cluster at an address; without one, a cluster of this machine alone while it is needed."""
    if ray.is_initialized():  # the caller's own
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address or os.environ.get("RAY_ADDRESS"):
            ray.init(address=address or "auto", **quiet)
        else:
            ray.init(
                address="local", include_dashboard=False, object_store_memory=STORE_BYTES + 2 * size_bytes, **quiet
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise RemoteError(f"no Ray cluster at {address or 'this machine'}: {first_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def placed(nodes: Sequence[Mapping[str, Any]], cluster: Cluster) -> tuple[int, int]:
    """How many processors an actor gets, and how many actors there are: by default two each, as many as fit."""
    sizes = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    cpus = cluster.cpus_per_actor or min(2, max(sizes, default=1)) or 1
    count = cluster.actors or sum(size // cpus for size in sizes)
    if not count:
        raise ConfigError(
            f"no node has {cpus} processors (the largest has {max(sizes, default=0)}): lower --cpus-per-actor"
        )
    return cpus, count
