"""Files of TFRecords of a process that is killed, or on a full disk."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unfreeze.server.tfrecord_files import RecordFile, complete_records, frame, recover

RECORDS = [b"", b"one", bytes(70_000)]


def written(path: Path) -> RecordFile:
    file = RecordFile(path)
    for record in RECORDS:
        file.append(record)
    return file


def test_closed_file_has_its_final_name_and_every_record(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    file = written(path)
    assert os.listdir(tmp_path) == ["a.tfrecord.partial"]
    file.close()
    assert os.listdir(tmp_path) == ["a.tfrecord"]
    assert path.read_bytes() == b"".join(map(frame, RECORDS))
    assert complete_records(path) == (3, path.stat().st_size)


def test_file_without_records_is_removed(tmp_path: Path) -> None:
    RecordFile(tmp_path / "a.tfrecord").close()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of files")
def test_incomplete_end_is_cut_off(tmp_path: Path) -> None:
    framed = list(map(frame, RECORDS))
    ends = [0, len(framed[0]), len(framed[0]) + len(framed[1]), sum(map(len, framed))]
    partial = tmp_path / "a.tfrecord.partial"
    for size in [*range(ends[2] + 20), ends[3] - 1, ends[3]]:
        partial.write_bytes(b"".join(framed)[:size])
        complete = sum(end <= size for end in ends) - 1
        assert recover(partial) == complete
        assert not partial.exists()
        final = tmp_path / "a.tfrecord"
        assert (final.stat().st_size if complete else 0) == ends[complete]
        final.unlink(missing_ok=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of files")
def test_file_of_a_running_process_is_not_recovered(tmp_path: Path) -> None:
    file = written(tmp_path / "a.tfrecord")
    assert recover(file.partial_path) is None
    file.append(b"more")
    file.close()
    assert complete_records(file.path)[0] == 4


WRITER = """
import sys
from pathlib import Path
from unfreeze.server.tfrecord_files import RecordFile
file = RecordFile(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    file.append(bytes(1_000_000))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_records_of_a_killed_process_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    child = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    partial = path.with_name("a.tfrecord.partial")
    while partial.stat().st_size < 5_000_000:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    records = recover(partial)
    assert records is not None
    assert records >= 5
    assert path.read_bytes() == frame(bytes(1_000_000)) * records


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_record_that_does_not_fit_on_the_disk_leaves_the_records_before(tmp_path: Path) -> None:
    import resource

    file = written(tmp_path / "a.tfrecord")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.size_bytes + 5000, before[1]))  # fails after a part, as a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            file.append(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.partial_path.read_bytes() == b"".join(map(frame, RECORDS))
    file.append(b"more")
    file.close()
    assert complete_records(file.path) == (4, file.path.stat().st_size)
