"""`predict_many` on a real Ray cluster of two nodes on this machine; a worker and a node are killed during the run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image

from unfreeze.errors import ConfigError, OutputError, RemoteError, UnsupportedError
from unfreeze.prediction import cluster, shards
from unfreeze.prediction.batches import PredictOptions
from unfreeze.prediction.cluster import Cluster, distribute, plan_actors, ship_model
from unfreeze.prediction.predict_many import predict_many

ray = pytest.importorskip("ray")
COUNT = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose one box encodes the mean of the image."""
    folder = tmp_path_factory.mktemp("model")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], "uint8", "input_tensor")], autograph=False)
    def detect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        means = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3]) / 256.0
        zeros = tf.zeros_like(means)
        return {
            "detection_boxes": tf.stack([zeros, zeros, means, means], axis=-1)[:, tf.newaxis],
            "detection_scores": tf.fill([tf.shape(images)[0], 1], 0.75),
            "detection_classes": tf.fill([tf.shape(images)[0], 1], 3.0),
        }

    tf.saved_model.save(tf.Module(), str(folder), signatures={"image_tensor": detect})
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        Image.new("RGB", (32, 24), (number,) * 3).save(folder / f"{number:04d}.png")
    (folder / "incomplete.png").write_bytes(b"nothing")
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards")
def test_run_survives_the_loss_of_a_worker_and_a_node(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster as Nodes

    source = str(Path(cluster.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]))
    predict_many(model, images, output_directory=tmp_path / "here")
    nodes = Nodes(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
    )
    second = nodes.add_node(num_cpus=1, object_store_memory=10**8)
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    killed: list[str] = []
    actors: list[Any] = []
    original_distribute = cluster.distribute

    def distribute_and_record(ray: Any, start_actor: Any, count: int, todo: Any, on_images: Any) -> None:
        assert count == 2

        def start_and_record() -> Any:
            actors.append(start_actor())
            return actors[-1]

        original_distribute(ray, start_and_record, count, todo, on_images)

    monkeypatch.setattr(cluster, "distribute", distribute_and_record)

    def on_advance(number: int, total: int) -> None:
        if number >= total // 4 and not killed:
            killed.append("worker")
            ray.kill(actors[0])
        elif number >= total // 2 and len(killed) == 1:
            killed.append("node")
            nodes.remove_node(second, allow_graceful=False)

    try:
        done = predict_many(
            model, images, output_directory=tmp_path / "out", engine="ray", cpus_per_actor=1, on_advance=on_advance
        )
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert killed == ["worker", "node"]
    assert len(actors) >= 3  # the node's actor is replaced only if there are shards left
    assert (done.images, done.failures) == (COUNT, 1)
    here, out = (tmp_path / folder / "predictions.jsonl" for folder in ("here", "out"))
    assert out.read_bytes() == here.read_bytes()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["image"] for record in records] == [f"{number:04d}.png" for number in range(COUNT)]
    assert [round(record["detections"][0]["box"][2] * 256) for record in records] == list(range(COUNT))
    [failure] = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["image"] == "incomplete.png"


class FakeRay:
    """The part of Ray that `distribute` uses, with actors that finish at once, or die."""

    def __init__(self, dies: Any) -> None:
        self.dies, self.started, self.most_pending, self.calls = dies, 0, 0, 0
        self.exceptions = ray.exceptions
        self.log: list[int] = []

    def start_actor(self) -> Any:
        self.started += 1
        return FakeActor(self, self.started)

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        self.most_pending = max(self.most_pending, sum(reference[1] is not None for reference in references))
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        actor, shard, _ = reference
        if self.dies(actor, shard):
            raise ray.exceptions.RayActorError
        self.log.append(-1 if shard is None else shard.number)
        return None if shard is None else len(shard.sources)


class FakeActor:
    def __init__(self, fake: FakeRay, number: int) -> None:
        self.fake, self.number = fake, number
        self.prepare, self.run_shard = FakeCall(self, True), FakeCall(self, False)


class FakeCall:
    def __init__(self, actor: FakeActor, prepares: bool) -> None:
        self.actor, self.prepares = actor, prepares

    def remote(self, argument: Any) -> Any:
        self.actor.fake.calls += 1
        return self.actor.number, None if self.prepares else argument, self.actor.fake.calls


def make_shards(count: int) -> list[shards.Shard]:
    return [shards.Shard(number, (shards.Source(f"{number}.png", f"/{number}.png"),)) for number in range(count)]


def test_each_actor_has_at_most_two_shards() -> None:
    fake, counted = FakeRay(lambda actor, shard: False), []
    distribute(fake, fake.start_actor, 3, make_shards(50), counted.append)
    assert sorted(fake.log) == [-1, -1, -1, *range(50)]
    assert counted == [1] * 50
    assert (fake.started, fake.most_pending) == (3, 6)


def test_shards_of_a_dead_worker_go_to_others() -> None:
    fake = FakeRay(lambda actor, shard: actor in (1, 4) and shard is not None and shard.number > 3)
    distribute(fake, fake.start_actor, 2, make_shards(20), lambda images: None)
    assert sorted(number for number in fake.log if number >= 0) == list(range(20))
    assert fake.started in (3, 4)


def test_shard_that_kills_every_worker_is_reported() -> None:
    fake = FakeRay(lambda actor, shard: shard is not None and shard.number == 7)
    with pytest.raises(RemoteError, match=r"10 workers died of the images 7\.png"):
        distribute(fake, fake.start_actor, 2, make_shards(20), lambda images: None)
    fake = FakeRay(lambda actor, shard: True)
    with pytest.raises(RemoteError, match="workers die while they load the model"):
        distribute(fake, fake.start_actor, 2, make_shards(20), lambda images: None)


def test_number_of_actors_fits_the_nodes() -> None:
    def nodes(*cpus: float) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": size}} for size in cpus] + [{"Alive": False, "Resources": {}}]

    assert plan_actors(nodes(8.0, 3.0), Cluster()) == (2, 5)
    assert plan_actors(nodes(1.0, 1.0), Cluster()) == (1, 2)
    assert plan_actors(nodes(8.0), Cluster(cpus_per_actor=4)) == (4, 2)
    assert plan_actors(nodes(1.0), Cluster(actors=7)) == (1, 7)
    with pytest.raises(ConfigError, match="no node has 4 CPUs"):
        plan_actors(nodes(2.0), Cluster(cpus_per_actor=4))


def test_worker_reports_folders_that_it_does_not_see(model: Path, images: Path, tmp_path: Path) -> None:
    store = cluster.Store(str(tmp_path), str(tmp_path))
    worker = cluster.Worker(ship_model(str(model)), {}, PredictOptions(), store, 1)
    with pytest.raises(OutputError, match=r"does not exist on .*\. Pass a folder that all nodes share"):
        worker.prepare(str(images / "0000.png"))
    store.write(shards.SETTINGS, [b"{}"])
    with pytest.raises(ConfigError, match=r"/elsewhere/a\.png does not exist on"):
        worker.prepare("/elsewhere/a.png")
    worker.prepare(str(images / "0000.png"))
    source = shards.Source("a.png", str(images / "0009.png"))
    assert worker.run_shard(shards.Shard(0, (source,))) == 1
    [part] = (tmp_path / "parts").iterdir()
    assert json.loads(part.read_text().splitlines()[0])["image"] == "a.png"


def test_memory_store_and_unknown_engine_are_rejected(model: Path, images: Path) -> None:
    with pytest.raises(UnsupportedError, match="memory://out with --engine ray"):
        predict_many(model, images, output_directory="memory://out", engine="ray")
    with pytest.raises(ConfigError, match="'spark' is not an engine"):
        predict_many(model, images, engine="spark")
