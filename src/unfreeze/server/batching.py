"""Requests that wait at the same time are answered by one call of the model.

The parameters are TensorFlow Serving's. Two things differ on purpose: only inputs of equal shapes are put together,
where TensorFlow Serving puts any together and refuses them; and when a batch fails, its requests are run one by one,
so that somebody's broken picture fails nobody else's. Source: batching/batching_session.cc, README.md.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

import numpy as np

from unfreeze.server.failures import Code, Failure, invalid
from unfreeze.server.settings import Batching

FULL = "The batch scheduling queue to which this task was submitted is full"
Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]


@dataclass
class Task:
    """One request, or a part of a large one."""

    inputs: Arrays
    rows: int
    deadline: float  # of time.monotonic()
    future: "Future[dict[str, np.ndarray]]" = field(default_factory=Future)


@dataclass
class Batch:
    """Tasks that will be run together."""

    run: Run
    opened: float
    tasks: list[Task] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(task.rows for task in self.tasks)


class Batcher:
    """Threads that take full or ripe batches off the queues and run them."""

    def __init__(self, settings: Batching, on_batch: Callable[[int], None] = lambda rows: None) -> None:
        self.settings = settings
        self.on_batch = on_batch
        self.queues: dict[Hashable, deque[Batch]] = {}
        self.changed = threading.Condition()
        self.closing = False
        self.threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(settings.num_batch_threads)
        ]
        for thread in self.threads:
            thread.start()

    def call(self, key: Hashable, run: Run, inputs: Arrays, deadline: float) -> dict[str, np.ndarray]:
        """Answer `inputs` together with others of the same key and shapes; blocks until they are answered.

        Raises: Failure RESOURCE_EXHAUSTED when the queue is full, DEADLINE_EXCEEDED when the answer comes too late.
        """
        rows = rows_of(inputs)
        limit = self.settings.max_batch_size
        if rows > limit and not self.settings.enable_large_batch_splitting:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {limit}")
        parts = [
            {name: value[start : start + limit] for name, value in inputs.items()} for start in range(0, rows, limit)
        ]
        tasks = [Task(part, rows_of(part), deadline) for part in parts]
        self._enqueue((key, shapes_key(inputs, self.settings.pad_variable_length_inputs)), run, tasks)
        answers = [waited_for(task) for task in tasks]
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()

    def _enqueue(self, key: Hashable, run: Run, tasks: Sequence[Task]) -> None:
        with self.changed:
            queue = self.queues.setdefault(key, deque())
            for task in tasks:
                if not queue or queue[-1].rows + task.rows > self.settings.max_batch_size:
                    if len(queue) >= self.settings.max_enqueued_batches:
                        raise Failure(
                            Code.RESOURCE_EXHAUSTED,
                            FULL,
                        )
                    queue.append(Batch(run, time.monotonic()))
                queue[-1].tasks.append(task)
            self.changed.notify()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._answer(batch)

    def _next_batch(self) -> Batch | None:
        """The oldest batch that is full or has waited long enough; None when the server ends."""
        with self.changed:
            while True:
                ripe = [key for key, queue in self.queues.items() if self._wait_of(queue) <= 0]
                if ripe:
                    key = min(ripe, key=lambda key: self.queues[key][0].opened)
                    batch = self.queues[key].popleft()
                    if not self.queues[key]:  # else a queue for every shape ever seen would stay
                        del self.queues[key]
                    return batch
                if self.closing:
                    return None
                waits = [self._wait_of(queue) for queue in self.queues.values()]
                self.changed.wait(min(waits, default=None))

    def _wait_of(self, queue: deque[Batch]) -> float:
        """Seconds until the first batch of a queue may be run."""
        full = len(queue) > 1 or queue[0].rows >= self.settings.max_batch_size
        if full or self.closing:
            return 0.0
        return queue[0].opened + self.settings.batch_timeout_micros / 1e6 - time.monotonic()

    def _answer(self, batch: Batch) -> None:
        tasks = [task for task in batch.tasks if still_wanted(task)]
        if not tasks:
            return
        self.on_batch(sum(task.rows for task in tasks))
        try:
            answers = self._run(batch.run, tasks)
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].future.set_exception(error)
                return
            for task in tasks:
                self._answer_alone(batch.run, task)
            return
        for task, answer in zip(tasks, answers, strict=True):
            task.future.set_result(answer)

    def _answer_alone(self, run: Run, task: Task) -> None:
        try:
            task.future.set_result(self._run(run, [task])[0])
        except Exception as error:
            task.future.set_exception(error)

    def _run(self, run: Run, tasks: Sequence[Task]) -> list[dict[str, np.ndarray]]:
        """Put the inputs together, run, and take the outputs apart again."""
        rows = sum(task.rows for task in tasks)
        size = next((size for size in self.settings.allowed_batch_sizes if size >= rows), rows)
        if len(tasks) == 1 and size == rows:
            outputs = run(tasks[0].inputs)
        else:
            outputs = run({name: joined([task.inputs[name] for task in tasks], size) for name in tasks[0].inputs})
        for name, value in outputs.items():
            check_batched(name, value, size)
        return list(split(outputs, [task.rows for task in tasks]))


def rows_of(inputs: Arrays) -> int:
    """N, which every input must share. Raises: Failure INVALID_ARGUMENT."""
    if any(value.ndim == 0 for value in inputs.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension.")
    sizes = {value.shape[0] for value in inputs.values()}
    if len(sizes) != 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size.")
    [rows] = sizes
    if rows == 0:
        raise invalid("Batching Run() input tensors must have at least one row.")
    return rows


def shapes_key(inputs: Arrays, padded: bool) -> Hashable:
    """What inputs must share to be put together: their shapes but for N, or just their ranks where they are padded."""
    return tuple((name, inputs[name].ndim if padded else inputs[name].shape[1:]) for name in sorted(inputs))


def joined(values: Sequence[np.ndarray], size: int) -> np.ndarray:
    """[n1, …], [n2, …] … -> [size, …]: padded with zeros to the largest, filled up with the last one's first row."""
    largest = tuple(max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True))
    padded = [value if value.shape[1:] == largest else filled(value, largest) for value in values]
    missing = size - sum(value.shape[0] for value in values)
    if missing:
        padded.append(np.repeat(padded[-1][:1], missing, axis=0))
    return np.concatenate(padded)


def filled(value: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """[n, …] -> [n, *sizes], with zeros or empty strings behind what there is."""
    widths = [(0, 0), *((0, most - have) for have, most in zip(value.shape[1:], sizes, strict=True))]
    return np.pad(value, widths, constant_values=b"" if value.dtype == object else 0)


def check_batched(name: str, value: np.ndarray, size: int) -> None:
    """Refuse an output that cannot be taken apart. Source: batching_session.cc."""
    if value.ndim == 0:
        raise Failure(Code.FAILED_PRECONDITION, f"Batched output tensor has 0 dimensions: {name}")
    if value.shape[0] != size:
        raise Failure(
            Code.FAILED_PRECONDITION,
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
            f"tensors: {name} has {value.shape[0]}, expected {size}",
        )


def split(outputs: Arrays, rows: Sequence[int]) -> "Sequence[dict[str, np.ndarray]]":
    """[size, …] -> one dict of [n, …] for each task, without what was filled up."""
    ends = np.cumsum(rows)
    return [
        {name: value[end - count : end] for name, value in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def still_wanted(task: Task) -> bool:
    """False, once its deadline has passed: nobody waits for it any more."""
    if time.monotonic() < task.deadline:
        return task.future.set_running_or_notify_cancel()
    task.future.cancel()
    return False


def waited_for(task: Task) -> dict[str, np.ndarray]:
    try:
        return task.future.result(max(0.0, task.deadline - time.monotonic()))
    except (TimeoutError, FutureTimeout, CancelledError) as error:
        raise Failure(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification") from error
