"""Batching: requests that wait at the same time run in one call of the model.

The parameters are TensorFlow Serving's. Two things differ on purpose. Only inputs of equal shapes are put into one
batch, where TensorFlow Serving mixes shapes and then rejects them. And if a batch fails, its requests run one by one,
so that a broken image fails only its own request. Source: batching/batching_session.cc, README.md.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

import numpy as np

from unfreeze.server.settings import Batching
from unfreeze.server.status import StatusCode, StatusError, deadline_exceeded, invalid

QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full"
Arrays = Mapping[str, np.ndarray]
RunModel = Callable[[Arrays], dict[str, np.ndarray]]


@dataclass
class Task:
    """One request, or a part of a request that is split."""

    inputs: Arrays
    rows: int
    deadline: float  # by time.monotonic()
    future: "Future[dict[str, np.ndarray]]" = field(default_factory=Future)


@dataclass
class Batch:
    """Tasks that run together."""

    run_model: RunModel
    opened: float  # by time.monotonic()
    tasks: list[Task] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Returns the number of rows of all tasks."""
        return sum(task.rows for task in self.tasks)


class Batcher:
    """Queues of batches, one queue for each key and shape, and the threads that run them."""

    def __init__(self, settings: Batching, on_batch: Callable[[int], None] = lambda rows: None) -> None:
        self.settings = settings
        self.on_batch = on_batch
        self.queues: dict[Hashable, deque[Batch]] = {}
        self.changed = threading.Condition()
        self.closing = False
        self.threads = [
            threading.Thread(target=self._work, name=f"{settings.thread_pool_name}-{number}", daemon=True)
            for number in range(settings.num_batch_threads)
        ]
        for thread in self.threads:
            thread.start()

    def call(self, key: Hashable, run_model: RunModel, inputs: Arrays, deadline: float) -> dict[str, np.ndarray]:
        """Returns the outputs for `inputs`, which run together with others of the same key and shapes.

        Raises: StatusError RESOURCE_EXHAUSTED if the queue is full, DEADLINE_EXCEEDED if the deadline passes first.
        """
        rows = row_count(inputs)
        limit = self.settings.max_batch_size
        if rows > limit and not self.settings.enable_large_batch_splitting:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {limit}")
        parts = [
            {name: value[start : start + limit] for name, value in inputs.items()} for start in range(0, rows, limit)
        ]
        tasks = [Task(part, row_count(part), deadline) for part in parts]
        self._enqueue((key, shape_key(inputs, self.settings.pad_variable_length_inputs)), run_model, tasks)
        outputs = [wait_for(task) for task in tasks]
        if len(outputs) == 1:
            return outputs[0]
        return {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}

    def close(self) -> None:
        """Runs the batches that wait, then ends the threads."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()

    def _enqueue(self, key: Hashable, run_model: RunModel, tasks: Sequence[Task]) -> None:
        with self.changed:
            queue = self.queues.setdefault(key, deque())
            for task in tasks:
                if not queue or queue[-1].rows + task.rows > self.settings.max_batch_size:
                    if len(queue) >= self.settings.max_enqueued_batches:
                        raise StatusError(StatusCode.RESOURCE_EXHAUSTED, QUEUE_FULL)
                    queue.append(Batch(run_model, time.monotonic()))
                queue[-1].tasks.append(task)
            self.changed.notify()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._run_batch(batch)

    def _next_batch(self) -> Batch | None:
        """Waits for a batch that is full or has waited long enough, and returns the oldest; None at the end."""
        with self.changed:
            while True:
                ready = [key for key, queue in self.queues.items() if self._remaining_wait_s(queue) <= 0]
                if ready:
                    key = min(ready, key=lambda key: self.queues[key][0].opened)
                    batch = self.queues[key].popleft()
                    if not self.queues[key]:  # otherwise the queue of every shape that ever occurred would stay
                        del self.queues[key]
                    return batch
                if self.closing:
                    return None
                waits = [self._remaining_wait_s(queue) for queue in self.queues.values()]
                self.changed.wait(min(waits, default=None))

    def _remaining_wait_s(self, queue: deque[Batch]) -> float:
        """Returns the seconds until the first batch of a queue may run."""
        full = len(queue) > 1 or queue[0].rows >= self.settings.max_batch_size
        if full or self.closing:
            return 0.0
        return queue[0].opened + self.settings.batch_timeout_micros / 1e6 - time.monotonic()

    def _run_batch(self, batch: Batch) -> None:
        """Runs the tasks of a batch that have not timed out; one by one if they fail together."""
        tasks = [task for task in batch.tasks if claim(task)]
        if not tasks:
            return
        self.on_batch(sum(task.rows for task in tasks))
        try:
            outputs = self._run_tasks(batch.run_model, tasks)
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].future.set_exception(error)
                return
            for task in tasks:
                self._run_alone(batch.run_model, task)
            return
        for task, task_outputs in zip(tasks, outputs, strict=True):
            task.future.set_result(task_outputs)

    def _run_alone(self, run_model: RunModel, task: Task) -> None:
        try:
            task.future.set_result(self._run_tasks(run_model, [task])[0])
        except Exception as error:
            task.future.set_exception(error)

    def _run_tasks(self, run_model: RunModel, tasks: Sequence[Task]) -> list[dict[str, np.ndarray]]:
        """Joins the inputs, runs the model, and returns the outputs of each task."""
        rows = sum(task.rows for task in tasks)
        size = next((size for size in self.settings.allowed_batch_sizes if size >= rows), rows)
        if len(tasks) == 1 and size == rows:
            outputs = run_model(tasks[0].inputs)
        else:
            outputs = run_model({name: join([task.inputs[name] for task in tasks], size) for name in tasks[0].inputs})
        for name, value in outputs.items():
            check_batched(name, value, size)
        return split(outputs, [task.rows for task in tasks])


def row_count(inputs: Arrays) -> int:
    """Returns N, the first dimension, which all inputs must share. Raises: StatusError INVALID_ARGUMENT."""
    if any(value.ndim == 0 for value in inputs.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension.")
    sizes = {int(value.shape[0]) for value in inputs.values()}
    if len(sizes) != 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size.")
    [rows] = sizes
    if rows == 0:
        raise invalid("Batching Run() input tensors must have at least one row.")
    return rows


def shape_key(inputs: Arrays, padded: bool) -> Hashable:
    """Returns what inputs of one batch have in common: the shapes without N, or only the ranks if they are padded."""
    return tuple((name, inputs[name].ndim if padded else inputs[name].shape[1:]) for name in sorted(inputs))


def join(values: Sequence[np.ndarray], size: int) -> np.ndarray:
    """[n1, …], [n2, …] … -> [size, …]: zero-padded to the largest shape, filled up with copies of one row."""
    largest = tuple(max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True))
    padded = [value if value.shape[1:] == largest else pad(value, largest) for value in values]
    missing = size - sum(value.shape[0] for value in values)
    if missing:
        padded.append(np.repeat(padded[-1][:1], missing, axis=0))
    return np.concatenate(padded)


def pad(value: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """[n, …] -> [n, *sizes], with zeros or empty strings at the end of each dimension."""
    widths = [(0, 0), *((0, target - size) for size, target in zip(value.shape[1:], sizes, strict=True))]
    return np.pad(value, widths, constant_values=b"" if value.dtype == object else 0)


def check_batched(name: str, value: np.ndarray, size: int) -> None:
    """Raises StatusError FAILED_PRECONDITION if an output cannot be split by rows. Source: batching_session.cc."""
    if value.ndim == 0:
        raise StatusError(StatusCode.FAILED_PRECONDITION, f"Batched output tensor has 0 dimensions: {name}")
    if value.shape[0] != size:
        raise StatusError(
            StatusCode.FAILED_PRECONDITION,
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
            f"tensors: {name} has {value.shape[0]}, expected {size}",
        )


def split(outputs: Arrays, rows: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """[size, …] -> one dict of [n, …] for each task; the rows that `join` filled up are dropped."""
    ends = np.cumsum(rows)
    return [
        {name: value[end - count : end] for name, value in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def claim(task: Task) -> bool:
    """Marks a task as running. Returns False, and cancels it, if its deadline has passed."""
    if time.monotonic() < task.deadline:
        return task.future.set_running_or_notify_cancel()
    task.future.cancel()
    return False


def wait_for(task: Task) -> dict[str, np.ndarray]:
    """Returns the outputs of a task. Raises: StatusError DEADLINE_EXCEEDED if its deadline passes first."""
    try:
        return task.future.result(max(0.0, task.deadline - time.monotonic()))
    except (TimeoutError, FutureTimeout, CancelledError) as error:
        raise deadline_exceeded() from error
