"""Pictures over a real Ray cluster of two nodes on this machine; a worker and a node are killed under way."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image

from unfreeze.errors import ConfigError, OutputError, RemoteError, UnsupportedError
from unfreeze.prediction import cluster, shards
from unfreeze.prediction.cluster import Cluster, give, placed
from unfreeze.prediction.predict_many import predict_many

ray = pytest.importorskip("ray")
COUNT = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose one box tells the picture's mean."""
    folder = tmp_path_factory.mktemp("model")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], "uint8", "input_tensor")], autograph=False)
    def answer(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        means = tf.reduce_mean(tf.cast(pictures, tf.float32), axis=[1, 2, 3]) / 256.0
        zeros = tf.zeros_like(means)
        return {
            "detection_boxes": tf.stack([zeros, zeros, means, means], axis=-1)[:, tf.newaxis],
            "detection_scores": tf.fill([tf.shape(pictures)[0], 1], 0.75),
            "detection_classes": tf.fill([tf.shape(pictures)[0], 1], 3.0),
        }

    tf.saved_model.save(tf.Module(), str(folder), signatures={"image_tensor": answer})
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        Image.new("RGB", (32, 24), (number,) * 3).save(folder / f"{number:04d}.png")
    (folder / "torn.png").write_bytes(b"nothing")
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards")
def test_a_worker_and_a_node_may_die(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster as Nodes

    source = str(Path(cluster.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]))
    predict_many(model, pictures, output_directory=tmp_path / "here")
    nodes = Nodes(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
    )
    second = nodes.add_node(num_cpus=1, object_store_memory=10**8)
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    killed: list[str] = []
    actors: list[Any] = []
    hire = cluster.give

    def give_and_remember(ray: Any, hires: Any, count: int, todo: Any, advance: Any) -> None:
        assert count == 2

        def hired() -> Any:
            actors.append(hires())
            return actors[-1]

        hire(ray, hired, count, todo, advance)

    monkeypatch.setattr(cluster, "give", give_and_remember)

    def on_advance(number: int, total: int) -> None:
        if number >= total // 4 and not killed:
            killed.append("worker")
            ray.kill(actors[0])
        elif number >= total // 2 and len(killed) == 1:
            killed.append("node")
            nodes.remove_node(second, allow_graceful=False)

    try:
        done = predict_many(
            model, pictures, output_directory=tmp_path / "out", engine="ray", cpus_per_actor=1, on_advance=on_advance
        )
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert killed == ["worker", "node"]
    assert len(actors) >= 3  # one for the worker; for those of the node only if there was work left
    assert (done.pictures, done.failures) == (COUNT, 1)
    here, out = (tmp_path / folder / "predictions.jsonl" for folder in ("here", "out"))
    assert out.read_bytes() == here.read_bytes()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["image"] for record in records] == [f"{number:04d}.png" for number in range(COUNT)]
    assert [round(record["detections"][0]["box"][2] * 256) for record in records] == list(range(COUNT))
    [failure] = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["image"] == "torn.png"


class Fake:
    """Ray as `give` sees it, with actors that answer at once, or die."""

    def __init__(self, dies: Any) -> None:
        self.dies, self.hired, self.most, self.given = dies, 0, 0, 0
        self.exceptions = ray.exceptions
        self.log: list[int] = []

    def hire(self) -> Any:
        self.hired += 1
        return FakeActor(self, self.hired)

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        self.most = max(self.most, sum(reference[1] is not None for reference in references))
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        actor, shard, _ = reference
        if self.dies(actor, shard):
            raise ray.exceptions.RayActorError
        self.log.append(-1 if shard is None else shard.number)
        return None if shard is None else len(shard.sources)


class FakeActor:
    def __init__(self, fake: Fake, number: int) -> None:
        self.fake, self.number = fake, number
        self.prepare, self.answer = FakeCall(self, True), FakeCall(self, False)


class FakeCall:
    def __init__(self, actor: FakeActor, prepares: bool) -> None:
        self.actor, self.prepares = actor, prepares

    def remote(self, given: Any) -> Any:
        self.actor.fake.given += 1
        return self.actor.number, None if self.prepares else given, self.actor.fake.given


def parts(count: int) -> list[shards.Shard]:
    return [shards.Shard(number, (shards.Source(f"{number}.png", f"/{number}.png"),)) for number in range(count)]


def test_no_more_than_two_shards_are_under_way_with_each() -> None:
    fake, counted = Fake(lambda actor, shard: False), []
    give(fake, fake.hire, 3, parts(50), counted.append)
    assert sorted(fake.log) == [-1, -1, -1, *range(50)]
    assert counted == [1] * 50
    assert (fake.hired, fake.most) == (3, 6)


def test_what_a_dead_worker_had_is_given_to_others() -> None:
    fake = Fake(lambda actor, shard: actor in (1, 4) and shard is not None and shard.number > 3)
    give(fake, fake.hire, 2, parts(20), lambda pictures: None)
    assert sorted(number for number in fake.log if number >= 0) == list(range(20))
    assert fake.hired in (3, 4)


def test_a_shard_that_kills_every_worker_is_named() -> None:
    fake = Fake(lambda actor, shard: shard is not None and shard.number == 7)
    with pytest.raises(RemoteError, match=r"10 workers died of the pictures 7\.png"):
        give(fake, fake.hire, 2, parts(20), lambda pictures: None)
    fake = Fake(lambda actor, shard: True)
    with pytest.raises(RemoteError, match="workers die while they load the model"):
        give(fake, fake.hire, 2, parts(20), lambda pictures: None)


def test_how_many_workers_there_are() -> None:
    def nodes(*cpus: float) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": size}} for size in cpus] + [{"Alive": False, "Resources": {}}]

    assert placed(nodes(8.0, 3.0), Cluster()) == (2, 5)
    assert placed(nodes(1.0, 1.0), Cluster()) == (1, 2)
    assert placed(nodes(8.0), Cluster(cpus_per_actor=4)) == (4, 2)
    assert placed(nodes(1.0), Cluster(actors=7)) == (1, 7)
    with pytest.raises(ConfigError, match="no node has 4 processors"):
        placed(nodes(2.0), Cluster(cpus_per_actor=4))


def test_a_worker_that_does_not_see_the_folders_says_so(model: Path, pictures: Path, tmp_path: Path) -> None:
    store = cluster.Store(str(tmp_path), str(tmp_path))
    worker = cluster.Worker(cluster.model_files(model), {}, cluster.Wish(), store, 1)
    with pytest.raises(OutputError, match=r"does not see .*: give a folder that all nodes share"):
        worker.prepare(str(pictures / "0000.png"))
    store.write(shards.SETTINGS, [b"{}"])
    with pytest.raises(ConfigError, match=r"does not see /elsewhere/a\.png"):
        worker.prepare("/elsewhere/a.png")
    worker.prepare(str(pictures / "0000.png"))
    source = shards.Source("a.png", str(pictures / "0009.png"))
    assert worker.answer(shards.Shard(0, (source,))) == 1
    [part] = (tmp_path / "parts").iterdir()
    assert json.loads(part.read_text().splitlines()[0])["image"] == "a.png"


def test_what_ray_cannot_do_is_refused_by_name(model: Path, pictures: Path) -> None:
    with pytest.raises(UnsupportedError, match="memory://out with --engine ray"):
        predict_many(model, pictures, output_directory="memory://out", engine="ray")
    with pytest.raises(ConfigError, match="'spark' is not an engine"):
        predict_many(model, pictures, engine="spark")
