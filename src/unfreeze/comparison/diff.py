"""What differs between two checkpoints, SavedModels or frozen graphs, without running them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.comparison.summaries import Held, Side, read_side
from unfreeze.formatting import aligned, amount
from unfreeze.weights import MOVING_AVERAGE

SHOWN = 10  # rows of each list for a person; the JSON has all


@dataclass(frozen=True)
class Move:
    """How far a weight moved: the largest difference of a number, and the norm of all against that of the old ones."""

    name: str
    largest: float
    relative: float

    def __str__(self) -> str:
        return f"{self.relative:8.2%}  {self.largest:9.3g}  {self.name}"


@dataclass(frozen=True)
class Difference:
    """What differs from `old` to `new`.

    Attributes:
        equal: how many weights are the same, byte for byte.
        moved: those of one shape and dtype with other values, the farthest first.
        reshaped: name -> shape and dtype on both sides, where these differ.
        only_old, only_new: weights that the other side lacks.
        signatures, operations, settings: what is another -> on both sides, None where a side has it not.
    """

    old: Side
    new: Side
    equal: int
    moved: tuple[Move, ...]
    reshaped: Mapping[str, tuple[str, str]]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    signatures: Mapping[str, tuple[str | None, str | None]]
    operations: Mapping[str, tuple[int, int]]
    settings: Mapping[str, tuple[str | None, str | None]]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not any(
            (self.moved, self.reshaped, self.only_old, self.only_new, self.signatures, self.operations, self.settings)
        )

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON can hold it."""
        return {
            "old": {"path": str(self.old.path), "kind": self.old.kind},
            "new": {"path": str(self.new.path), "kind": self.new.kind},
            "same": self.same,
            "weights": {
                "equal": self.equal,
                "moved": [asdict(move) for move in self.moved],
                "reshaped": _both(self.reshaped),
                "only_old": list(self.only_old),
                "only_new": list(self.only_new),
            },
            "signatures": _both(self.signatures),
            "operations": _both(self.operations),
            "settings": _both(self.settings),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"old: {self.old.path}: {self.old.kind}"
        yield f"new: {self.new.path}: {self.new.kind}"
        if self.same:
            yield f"  no difference: {amount(self.equal, 'weight')} equal byte for byte"
            return
        yield from aligned([(name, told) for name, told in self._rows() if told])

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "weights", f"{self.equal:,} equal byte for byte, {len(self.moved):,} moved"
        yield "", _listed(["relative    largest  of"] * bool(self.moved) + [str(move) for move in self.moved])
        yield "of another shape", _listed([f"{name}: {old} -> {new}" for name, (old, new) in self.reshaped.items()])
        yield "only in the old", _listed(list(self.only_old))
        yield "only in the new", _listed(list(self.only_new))
        for title, changes in (("signatures", self.signatures), ("settings", self.settings)):
            yield title, "\n".join(f"{name}: {_side(old)} -> {_side(new)}" for name, (old, new) in changes.items())
        yield "operations", _listed([f"{name}: {old} -> {new}" for name, (old, new) in self.operations.items()])


def diff(old: str | Path, new: str | Path, *, on_progress: Callable[[str], None] | None = None) -> Difference:
    """Compare two checkpoints, SavedModels or frozen graphs, of one kind or of two, by the names of their weights.

    Operations and signatures are compared where both sides have a graph, settings where both have a pipeline.config
    beside them or thresholds in their graph.

    Raises: UnfreezeError of the kind that fits, when a side is none of these.
    """
    say = on_progress or (lambda step: None)
    say(f"reading {old}")
    left = read_side(old)
    say(f"reading {new}")
    right = read_side(new)
    ours, theirs = _paired(left.weights, right.weights)
    equal, moved, reshaped = 0, [], {}
    for name in [name for name in ours if name in theirs]:
        say(f"comparing {name}")
        one, other = ours[name], theirs[name]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            reshaped[name] = (_form(one), _form(other))
            continue
        move = _move(name, one.read(), other.read())
        if move is None:
            equal += 1
        else:
            moved.append(move)
    return Difference(
        left,
        right,
        equal,
        tuple(sorted(moved, key=lambda move: -move.relative)),
        reshaped,
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
        _common_changes(_flat(left.signatures), _flat(right.signatures)),
        _counts(left, right),
        _common_changes(left.settings, right.settings) | _common_changes(left.thresholds, right.thresholds),
    )


def _paired(old: Mapping[str, Held], new: Mapping[str, Held]) -> tuple[dict[str, Held], dict[str, Held]]:
    """Both sides, each weight by the name that the other side can have for it.

    A checkpoint has a weight and its moving average; an export has one of them, and a frozen graph calls it by the
    weight's name in either case.
    """
    return dict(_named_for(new, old)), dict(_named_for(old, new))


def _named_for(other: Mapping[str, Held], own: Mapping[str, Held]) -> Iterator[tuple[str, Held]]:
    for name, held in own.items():
        weight = name.removesuffix(MOVING_AVERAGE)
        if name == weight or name in other:
            average = name + MOVING_AVERAGE
            other_took_the_average = name not in other and average in other and average in own
            if not other_took_the_average:
                yield name, held
        elif weight not in own:
            yield weight, held


def _move(name: str, old: np.ndarray, new: np.ndarray) -> Move | None:
    """How far a weight moved; None where its bytes are the same."""
    if old.tobytes() == new.tobytes():
        return None
    if old.dtype.kind in "OSU":
        return Move(name, float("nan"), float("nan"))
    before, after = old.astype(np.float64), new.astype(np.float64)
    norm = float(np.linalg.norm(before))
    distance = float(np.linalg.norm(after - before))
    return Move(name, float(np.abs(after - before).max()), distance / norm if norm else float("inf"))


def _counts(old: Side, new: Side) -> dict[str, tuple[int, int]]:
    """The operations that only one side has, and how often: how many of the others there are says little."""
    if old.operations is None or new.operations is None:
        return {}
    names = sorted(set(old.operations) ^ set(new.operations))
    return {name: (old.operations[name], new.operations[name]) for name in names}


def _flat(signatures: Mapping[str, Mapping[str, str]] | None) -> dict[str, str]:
    return {f"{name} {key}": told for name, ends in (signatures or {}).items() for key, told in ends.items()}


def _common_changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """What differs, if both sides have something of the kind."""
    names = dict.fromkeys([*old, *new] if old and new else [])
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _both(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {"old": old, "new": new} for name, (old, new) in changes.items()}


def _form(held: Held) -> str:
    return f"{held.dtype} {list(held.shape)}"


def _side(told: str | None) -> str:
    return "none" if told is None else told


def _listed(lines: list[str]) -> str:
    more = [f"and {len(lines) - SHOWN:,} more (--json has all)"] if len(lines) > SHOWN + 1 else []
    return "\n".join([*lines[: SHOWN if more else None], *more])
