"""The vector cache: what was kept comes back, whoever writes at the same time."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.errors import StorageError
from storage.vectors import open_vectors

WRITER = """
import sys
from storage.vectors import open_vectors
with open_vectors(sys.argv[1]) as cache:
    for start in range(0, 2000, 100):
        cache.put_many({f"k{i}": b"v%d" % i for i in range(start, start + 100)})
"""


def test_vectors_come_back_and_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "vectors.sqlite"
    with open_vectors(path) as cache:
        cache.put_many({"a": b"1", "b": b"2"})
        cache.put_many({"a": b"other"})
        cache.put_many({})
    with open_vectors(path) as cache:
        assert cache.get_many(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
        assert cache.get_many([]) == {}


def test_threads_and_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    others = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=Path(__file__).parents[2]) for _ in range(2)]
    with open_vectors(path) as cache:
        threads = [threading.Thread(target=lambda n=n: cache.put_many({f"t{n}-{i}": b"x" for i in range(500)})) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [other.wait(timeout=60) for other in others] == [0, 0]
        assert len(cache.get_many([f"t{n}-{i}" for n in range(4) for i in range(500)])) == 2000
        assert cache.get_many([f"k{i}" for i in range(2000)]) == {f"k{i}": b"v%d" % i for i in range(2000)}


def test_what_is_no_cache_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match=r"vectors\.sqlite: file is not a database; it is not a vector cache or is damaged"):
        open_vectors(path)
    assert path.read_bytes().startswith(b"no database")
