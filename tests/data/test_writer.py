"""A store is whole or not there; an interrupted one goes on to the same bytes; what cannot be written says why."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eokit.data import finish, shard_writer, writer
from eokit.data.store import Store
from eokit.data.writer import WriteOptions, write_store
from eokit.errors import ArgumentError, DataError, TargetError, UsageError
from tests.data.stores import MemorySource, make_source, make_store

QUIET = WriteOptions(workers=1, quiet=True)
MANY = (200, 200, 100, 150, 3)
"""Dates a sample that need several shards."""


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store by its name."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> dict[str, bytes]:
    """The bytes of the store of `MANY`, written without interruption by one process."""
    return content(make_store(tmp_path_factory.mktemp("reference") / "toy.zarr", make_source(MANY, size=16)).path)


def fail_writing_after(monkeypatch, calls: int, code: int) -> None:
    """From the `calls`-th put-in-place on, the disk refuses with `code`."""
    left = iter(range(calls))
    replace_file = Path.replace

    def refuse(self, target):
        if next(left, None) is None:
            raise OSError(code, os.strerror(code))
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", refuse)


def test_two_workers_write_the_bytes_of_one(tmp_path, reference):
    make_store(tmp_path / "toy.zarr", make_source(MANY, size=16), workers=2)
    assert content(tmp_path / "toy.zarr") == reference


def test_a_finished_store_leaves_nothing_beside_it(tmp_path):
    make_store(tmp_path / "toy.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.zarr"]
    assert not [name for name in content(tmp_path / "toy.zarr") if "manifest" in name or "/." in name]


def test_the_result_counts_samples_and_bytes(tmp_path):
    source = make_source()
    result = write_store(source, tmp_path / "toy.zarr", QUIET)
    assert (result.samples, result.skipped, result.path) == (4, {}, tmp_path / "toy.zarr")
    assert result.input_bytes == sum(source.input_bytes(entry) for entry in source.entries)
    assert result.stored_bytes == sum(map(len, content(result.path).values()))


def test_each_sample_lies_in_one_shard_unless_it_is_longer(tmp_path):
    store = make_store(tmp_path / "toy.zarr", make_source((200, 60, 300, 5), size=8))
    assert store._small_array("s2/offset").tolist() == [[0, 200], [256, 60], [512, 300], [816, 5]]


def test_nodata_chunks_take_no_space(tmp_path):
    source = make_source((1,), size=8)
    source.read = lambda entry, modality: np.full_like(make_source((1,), size=8).read(entry, modality), -32768)
    store = make_store(tmp_path / "toy.zarr", source)
    assert not (store.path / "s2/data/c").exists()
    assert (store.read("s2", 0) == -32768).all()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from eokit.data.writer import WriteOptions, write_store
    from tests.data.stores import MemorySource, make_source

    class Deadly(MemorySource):
        def read(self, entry, modality):
            if (entry.id, modality) == ("p3", "s2"):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(entry, modality)

    source = make_source({counts}, size=16)
    write_store(Deadly(source.spec, source.entries), Path({dest!r}), WriteOptions(workers=1, quiet=True))
"""


def test_resume_after_kill_9_gives_the_bytes_of_an_uninterrupted_run(tmp_path, reference):
    script = textwrap.dedent(KILLED.format(counts=MANY, dest=str(tmp_path / "toy.zarr")))
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    finished = list((tmp_path / "toy.zarr.partial/manifest").glob("s2-*.json"))
    assert 0 < len(finished) < 4
    stamps = {file: (tmp_path / "toy.zarr.partial" / file).stat().st_mtime_ns for file in ["s2/data/c/0/0/0/0"]}
    make_store(tmp_path / "toy.zarr", make_source(MANY, size=16), resume=True)
    assert content(tmp_path / "toy.zarr") == reference
    assert all((tmp_path / "toy.zarr" / file).stat().st_mtime_ns == stamp for file, stamp in stamps.items())


def test_resume_writes_a_damaged_shard_again(tmp_path, reference):
    with pytest.raises(DataError):
        write_store(make_source(MANY, size=16, broken=["p3"]), tmp_path / "toy.zarr", QUIET)
    shard = tmp_path / "toy.zarr.partial/s2/data/c/0/0/0/0"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    make_store(tmp_path / "toy.zarr", make_source(MANY, size=16), resume=True)
    assert content(tmp_path / "toy.zarr") == reference


def test_a_broken_sample_stops_the_work_and_says_how_to_go_on(tmp_path):
    with pytest.raises(DataError, match=r"sample p3: s1-asc is truncated \(finished .*toy.zarr.partial; .* --resume\)"):
        write_store(make_source(broken=["p3"]), tmp_path / "toy.zarr", QUIET)
    assert not (tmp_path / "toy.zarr").exists()
    with pytest.raises(DataError, match="unfinished"):
        Store.open(tmp_path / "toy.zarr")


def test_a_broken_sample_in_a_worker_process_is_the_same_error(tmp_path):
    with pytest.raises(DataError, match="sample p3: s1-asc is truncated"):
        write_store(make_source(broken=["p3"]), tmp_path / "toy.zarr", WriteOptions(quiet=True))


def test_nothing_is_left_when_the_first_shard_fails(tmp_path):
    source = make_source(broken=["p0"])
    only = replace(source.spec, modalities=source.spec.modalities[:1])
    with pytest.raises(DataError, match=r"truncated$"):
        write_store(MemorySource(only, source.entries, source.broken), tmp_path / "toy.zarr", QUIET)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_skipping_leaves_a_sample_out_of_everything(tmp_path, workers):
    source = make_source(broken=["p1"])
    store = make_store(tmp_path / "toy.zarr", source, on_error="skip", workers=workers)
    rest = MemorySource(source.spec, [entry for entry in source.entries if entry.id != "p1"])
    expected = make_store(tmp_path / "rest.zarr", rest)
    assert store.ids == ["p0", "p2", "p3"]
    assert store.attributes["skipped"] == {"p1": "sample p1: s1-asc is truncated"}
    assert store.statistics == expected.statistics
    for sample in range(3):
        np.testing.assert_array_equal(store.read("s2", sample), expected.read("s2", sample))
        np.testing.assert_array_equal(store.read_label("parcel", sample), expected.read_label("parcel", sample))


def test_resume_without_skipping_tries_the_skipped_samples_again(tmp_path, reference):
    broken = make_source(MANY, size=16, broken=["p0"])
    broken.read_labels = lambda entry: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        write_store(broken, tmp_path / "toy.zarr", replace(QUIET, on_error="skip"))
    make_store(tmp_path / "toy.zarr", make_source(MANY, size=16), resume=True)
    assert content(tmp_path / "toy.zarr") == reference


def test_an_existing_store_is_not_touched(tmp_path):
    make_store(tmp_path / "toy.zarr")
    before = content(tmp_path / "toy.zarr")
    with pytest.raises(UsageError, match="add --overwrite to replace it"):
        write_store(make_source((3,)), tmp_path / "toy.zarr", QUIET)
    assert content(tmp_path / "toy.zarr") == before


def test_overwrite_replaces_the_old_store_once_the_new_one_is_whole(tmp_path):
    make_store(tmp_path / "toy.zarr")
    with pytest.raises(DataError):
        write_store(make_source((2, 3), broken=["p1"]), tmp_path / "toy.zarr", replace(QUIET, overwrite=True))
    assert len(Store.open(tmp_path / "toy.zarr")) == 4
    assert len(make_store(tmp_path / "toy.zarr", make_source((2, 3)), overwrite=True)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["toy.zarr"]


def test_overwrite_never_removes_what_is_no_store(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("...")
    with pytest.raises(UsageError, match="is no store, so it is not replaced"):
        write_store(make_source(), tmp_path / "thesis", replace(QUIET, overwrite=True))
    assert (tmp_path / "thesis/chapter1.tex").exists()


def test_an_unfinished_store_asks_whether_to_go_on(tmp_path):
    (tmp_path / "toy.zarr.partial").mkdir()
    with pytest.raises(UsageError, match=r"--resume to go on, --overwrite to start anew"):
        write_store(make_source(), tmp_path / "toy.zarr", QUIET)


def test_resume_refuses_the_partial_store_of_other_data(tmp_path):
    with pytest.raises(DataError):
        write_store(make_source(broken=["p3"]), tmp_path / "toy.zarr", QUIET)
    with pytest.raises(UsageError, match="was begun from other data or with other options"):
        write_store(make_source((4, 4)), tmp_path / "toy.zarr", replace(QUIET, resume=True))


@pytest.mark.parametrize("done", [1, 3, 6])
def test_a_full_disk_is_one_line_with_the_space_needed(tmp_path, monkeypatch, done):
    with monkeypatch.context() as patch:
        fail_writing_after(patch, done, errno.ENOSPC)
        with pytest.raises(TargetError, match=r"No space left.*[\d.]+ MB are free.*; the store needs at most"):
            write_store(make_source(), tmp_path / "toy.zarr", QUIET)
    assert not (tmp_path / "toy.zarr").exists()
    partial = (tmp_path / "toy.zarr.partial").exists()
    assert len(make_store(tmp_path / "toy.zarr", resume=partial)) == 4


def test_a_disk_that_is_full_for_the_root_document_loses_no_shard(tmp_path, monkeypatch, reference):
    def refuse(file, data):
        if file.name == "zarr.json" and file.parent.suffix == ".partial":
            raise TargetError("no room")
        write_aside(file, data)

    write_aside = shard_writer.write_aside
    with monkeypatch.context() as patch:
        patch.setattr(finish, "write_aside", refuse)
        with pytest.raises(TargetError, match=r"no room \(finished shards are kept in .*; go on with --resume\)"):
            write_store(make_source(MANY, size=16), tmp_path / "toy.zarr", QUIET)
    make_store(tmp_path / "toy.zarr", unreadable(MANY), resume=True)
    assert content(tmp_path / "toy.zarr") == reference


@pytest.mark.parametrize("dropped", [[], ["plan.json"], ["s2-*"], None])
def test_a_whole_store_that_was_not_renamed_is_only_renamed(tmp_path, monkeypatch, reference, dropped):
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_put_in_place", lambda partial, dest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_store(make_source(MANY, size=16), tmp_path / "toy.zarr", QUIET)
    manifest = tmp_path / "toy.zarr.partial/manifest"
    if dropped is None:
        shutil.rmtree(manifest)
    for file in [file for pattern in dropped or () for file in manifest.glob(pattern)]:
        file.unlink()
    make_store(tmp_path / "toy.zarr", unreadable(MANY), resume=True)
    assert content(tmp_path / "toy.zarr") == reference


def unreadable(counts) -> MemorySource:
    """A source that has the entries and nothing to read any more."""
    source = make_source(counts, size=16)
    return MemorySource(source.spec, source.entries, broken=frozenset(entry.id for entry in source.entries))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_target_is_one_line(tmp_path, monkeypatch, code):
    def refuse(self, *args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(TargetError, match=r"toy\.zarr\.partial: cannot be written"):
        write_store(make_source(), tmp_path / "toy.zarr", QUIET)


def test_a_file_cut_off_by_a_full_disk_is_never_put_in_place(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_writer.os, "fsync", refuse)
    with pytest.raises(TargetError):
        shard_writer.write_aside(tmp_path / "file", b"1234")
    assert not (tmp_path / "file").exists()


def changed(**changes) -> MemorySource:
    """The default source with other entries or a method replaced."""
    source = make_source()
    for name, value in changes.items():
        setattr(source, name, value)
    return source


WRONG = {
    "has shape .*expected .5, 4, 48, 48. .T, C, H, W.": {"read": lambda e, m: np.zeros((4, 4, 48, 48), np.int16)},
    "s2 is float32, expected int16": {"read": lambda e, m: np.zeros((5, 4, 48, 48), np.float32)},
    "no label layer semantic": {"read_labels": lambda e: {}},
    "semantic has shape .8, 8.": {"read_labels": lambda e: {"semantic": np.zeros((8, 8), np.uint8)}},
    "semantic holds the unknown class id 27; known are 0..3": {
        "read_labels": lambda e: {"semantic": np.full((48, 48), 27), "parcel": np.zeros((48, 48), np.int32)}
    },
    "semantic is float64, expected integers": {"read_labels": lambda e: {"semantic": np.zeros((48, 48))}},
    "1 sample ids occur twice, the first is p0": {"entries": [make_source().entries[0]] * 2},
    "no samples to write": {"entries": []},
    "sample p0 has no dates of s1-asc": {"entries": [replace(make_source().entries[0], days={"s2": np.zeros(2)})]},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_source_that_breaks_its_promise_is_named(tmp_path, message):
    with pytest.raises(DataError, match=message):
        write_store(changed(**WRONG[message]), tmp_path / "toy.zarr", QUIET)
    assert not (tmp_path / "toy.zarr").exists()


def test_an_unknown_class_below_a_large_ignore_value_is_found(tmp_path):
    source = make_source((1,), size=8)
    labels = (replace(source.spec.labels[0], ignore=255), source.spec.labels[1])
    source.spec = replace(source.spec, labels=labels)
    layer = np.full((8, 8), 255)
    layer[0, 0] = 100
    source.read_labels = lambda entry: {"semantic": layer, "parcel": np.zeros((8, 8), np.int32)}
    with pytest.raises(DataError, match=r"unknown class id 100; known are 0\.\.3 and 255 \(ignored\)"):
        write_store(source, tmp_path / "toy.zarr", QUIET)


def test_nodata_in_some_bands_only_is_refused(tmp_path):
    source = make_source((1,))
    values = source.read(source.entries[0], "s2")
    values[0, 2, 40, 40] = -32768
    source.read = lambda entry, modality: values
    with pytest.raises(DataError, match=r"sample p0: s2: nodata is set .* expected in all bands"):
        write_store(source, tmp_path / "toy.zarr", QUIET)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"layout": "rows"}])
def test_options_that_cannot_work_are_refused(wrong):
    with pytest.raises(ArgumentError):
        WriteOptions(**wrong)


def test_errors_survive_the_way_back_from_a_worker():
    assert str(pickle.loads(pickle.dumps(TargetError("no room")))) == "no room"


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from eokit.data.writer import WriteOptions, write_store
        from tests.data.stores import MemorySource, make_source
        from tests.data.test_writer import Slow
        if __name__ == "__main__":
            source = make_source({MANY}, size=16)
            slow = Slow(source.spec, source.entries)
            write_store(slow, Path({str(tmp_path / "toy.zarr")!r}), WriteOptions(quiet=True))
    """)
    (tmp_path / "parent.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "SLOW_PIDS": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], env=environment)
    pids = wait_for(lambda: [int(file.stem) for file in tmp_path.glob("*.pid")])
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(running(pid) for pid in pids))


class Slow(MemorySource):
    """Leaves its process id in a folder and then takes long."""

    def read(self, entry, modality):
        Path(os.environ["SLOW_PIDS"], f"{os.getpid()}.pid").touch()
        time.sleep(60)
        return super().read(entry, modality)


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 60.0):
    """What `condition` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {seconds} s")
