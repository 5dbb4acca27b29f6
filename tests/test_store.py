"""Storage: what is written comes back, and nothing else ever does."""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxsci import _store
from jaxsci._store import StoreError

ARRAYS = {
    "u": np.linspace(0.0, 1.0, 6).reshape(2, 3),
    ".layers[0].weight": np.float32(3.0),
    "file": np.zeros((0, 3)),
    "half": np.asarray([1, 2, 3], ml_dtypes.bfloat16),
    "scalar half": np.asarray(1, ml_dtypes.bfloat16),
    "names": np.array(["α", "bc"]),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "flags": np.array([True, False]),
    "big endian": np.arange(3, dtype=">i4"),
    "complex": np.array([1 + 2j, np.nan]),
}
META = {"step": 3, "scale": 0.1, "tag": None, "list": [1, "é"]}

# The writer has only NumPy to import, so that a kill hits the writing and not the start.
WRITER = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("store", sys.argv[1])
store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(store)
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    store.save(sys.argv[2], {"a": np.full(1_000_000, float(i))}, {"i": i})
"""


@pytest.fixture
def stored(tmp_path):
    folder = tmp_path / "parent" / "data"
    _store.save(folder, {"u": np.arange(100.0), "n": np.arange(3)}, META)
    return folder


def reseal(folder, change):
    """A manifest that agrees with itself after `change`: what a forger would write."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content)
    if "file_sha256" in content:
        content["file_sha256"] = _store._file_digest(folder / "arrays.npz")
    path.write_bytes(_store._sealed(content))


def test_round_trip(tmp_path):
    _store.save(tmp_path / "new" / "data", ARRAYS, META)
    arrays, meta = _store.load(tmp_path / "new" / "data")
    assert meta == META
    assert set(arrays) == set(ARRAYS)
    for name, expected in ARRAYS.items():
        expected = np.asarray(expected)
        assert arrays[name].dtype == expected.dtype
        assert arrays[name].shape == expected.shape
        assert arrays[name].tobytes() == np.asarray(expected, order="C").tobytes()
        assert arrays[name].flags.writeable
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"data"}
    assert {path.name for path in (tmp_path / "new" / "data").iterdir()} == {
        "arrays.npz",
        "manifest.json",
    }


def test_same_content_same_bytes(tmp_path):
    for name in "ab":
        _store.save(tmp_path / name, ARRAYS, META)
    for file in ("arrays.npz", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_numpy_reads_the_arrays(stored):
    with np.load(stored / "arrays.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["u"], np.arange(100.0))


def test_replacing(stored):
    for value in (1.0, 2.0):
        _store.save(stored, {"v": np.full(3, value)}, {"value": value})
        arrays, meta = _store.load(stored)
        assert meta == {"value": value}
        np.testing.assert_array_equal(arrays["v"], np.full(3, value))
        assert len(list(stored.iterdir())) == 2
    assert len(list(stored.parent.iterdir())) == 1


def test_damaged_store_can_be_replaced(stored):
    (stored / "manifest.json").write_bytes(b"{")
    _store.save(stored, {}, {})
    assert _store.load(stored) == ({}, {})
    assert len(list(stored.iterdir())) == 2


def test_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match="not a stored folder"):
        _store.save(tmp_path, {}, {})
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    with pytest.raises(StoreError, match="not a stored folder"):
        _store.save(tmp_path / "thesis.txt", {}, {})
    with pytest.raises(StoreError, match=r"Not a directory|not a folder"):
        _store.save(tmp_path / "thesis.txt" / "below", {}, {})


@pytest.mark.parametrize(
    ("arrays", "meta", "error", "message"),
    [
        ({"a": np.array([object()])}, {}, TypeError, "'a' has dtype object"),
        ({"a": np.zeros(2, [("x", "f4")])}, {}, TypeError, "'a' has dtype"),
        ({"a\\b": np.ones(2)}, {}, ValueError, "array name"),
        ({"": np.ones(2)}, {}, ValueError, "array name"),
        ({}, {"x": float("nan")}, ValueError, "`meta`"),
        ({}, {"x": {1}}, TypeError, "`meta`"),
    ],
)
def test_what_cannot_be_stored(tmp_path, arrays, meta, error, message):
    with pytest.raises(error, match=message):
        _store.save(tmp_path / "data", arrays, meta)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["arrays.npz", "manifest.json"])
def test_flipped_bits_are_detected(stored, file):
    path = stored / file
    whole = path.read_bytes()
    positions = random.Random(0).sample(range(8 * len(whole)), 300)
    for position in positions:
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(StoreError, match=f"(?s)parent/data/{file}|written in format|declares"):
            _store.load(stored)
    path.write_bytes(whole)
    _store.load(stored)


@pytest.mark.parametrize("file", ["arrays.npz", "manifest.json"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_truncation_is_detected(stored, file, share):
    path = stored / file
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StoreError, match=f"{file} cannot be used.*delete the folder"):
        _store.load(stored)


@pytest.mark.parametrize("file", ["arrays.npz", "manifest.json"])
def test_missing_and_extended_files(stored, file):
    path = stored / file
    whole = path.read_bytes()
    path.write_bytes(whole + b"\n")
    with pytest.raises(StoreError, match=file):
        _store.load(stored)
    path.unlink()
    with pytest.raises(StoreError, match=f"{file} cannot be used: it is missing"):
        _store.load(stored)
    path.mkdir()
    with pytest.raises(StoreError, match=f"{file} cannot be used: it is missing or not a file"):
        _store.load(stored)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 1000, b"[" * 100_000, b"[]", b"{}", b"3", b'{"format": 1}', b"\xff\xfe"],
    ids=["empty", "zeros", "nested", "list", "object", "number", "fields", "not utf-8"],
)
def test_garbage_manifest(stored, content):
    (stored / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"it is not a manifest|do not match|its fields"):
        _store.load(stored)


def test_pickles_are_never_run(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attack = np.empty(1, object)
    attack[0] = Malicious()

    # With a forged manifest that agrees with the file, so that only the reader itself refuses.
    with zipfile.ZipFile(stored / "arrays.npz", "w") as archive:
        for name in ("u.npy", "n.npy"):
            with archive.open(name, "w") as entry:
                np.lib.format.write_array(entry, attack, allow_pickle=True)
    reseal(stored, lambda content: None)
    with pytest.raises(StoreError, match=r"has no readable header|has .shape"):
        _store.load(stored)

    (stored / "arrays.npz").write_bytes(pickle.dumps(Malicious()))
    reseal(stored, lambda content: None)
    with pytest.raises(StoreError, match="BadZipFile"):
        _store.load(stored)

    def object_dtype(content):
        content["arrays"]["u"]["dtype"] = "|O"

    reseal(stored, object_dtype)
    with pytest.raises(StoreError, match="its fields"):
        _store.load(stored)
    assert not (tmp_path / "executed").exists()


def test_limits_are_declared_before_anything_is_allocated(stored):
    def huge(content):
        content["arrays"]["u"]["shape"] = [1 << 50]

    reseal(stored, huge)
    with pytest.raises(StoreError, match="above the limit of 68719476736 bytes"):
        _store.load(stored)
    with pytest.raises(StoreError, match="declares"):
        _store.load(stored, max_bytes=1 << 60)


def test_compressed_arrays_are_refused(stored):
    with zipfile.ZipFile(stored / "arrays.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("u.npy", "n.npy"):
            archive.writestr(name, b"\x00" * (1 << 24))
    reseal(stored, lambda content: None)
    with pytest.raises(StoreError, match="compressed or longer than declared"):
        _store.load(stored)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(file="../../secret.npz"),
        lambda c: c.update(file="/etc/passwd"),
        lambda c: c["arrays"]["u"].update(shape=[-1]),
        lambda c: c["arrays"]["u"].update(shape=[1.5]),
        lambda c: c["arrays"]["u"].update(dtype="no such type"),
        lambda c: c["arrays"].update(u=None),
        lambda c: c.pop("meta"),
    ],
    ids=["up", "absolute", "negative", "fraction", "dtype", "entry", "meta"],
)
def test_forged_manifest(stored, change):
    reseal(stored, change)
    with pytest.raises(StoreError, match="its fields are not those of a manifest"):
        _store.load(stored)


def test_other_format_names_both_versions(stored):
    reseal(stored, lambda content: content.update(format=7))
    with pytest.raises(StoreError, match=r"written in format 7; this version .* reads format 1"):
        _store.load(stored)


def test_nothing_there(tmp_path):
    with pytest.raises(StoreError, match="is not a folder"):
        _store.load(tmp_path / "absent")


def test_sweep(stored):
    stray = stored.with_name(f"data.tmp-{'0' * 32}")
    stray.mkdir()
    (stray / "arrays.npz").write_bytes(b"half")
    kept = stored.with_name("data.tmp-mine")
    kept.mkdir()
    assert _store.sweep(stored.parent, older_than=3600.0) == []
    assert _store.sweep(stored.parent) == [stray]
    assert {path.name for path in stored.parent.iterdir()} == {"data", "data.tmp-mine"}
    assert _store.sweep(stored / "absent") == []


def test_kill_while_saving(tmp_path):
    delays = random.Random(1)
    seen = set()
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, _store.__file__, tmp_path / "data", "1000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(delays.uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)
        seen |= {path.name.split("-")[0] for path in tmp_path.iterdir()}
        _store.sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"data"}
        if (tmp_path / "data").exists():
            arrays, meta = _store.load(tmp_path / "data")
            np.testing.assert_array_equal(arrays["a"], np.full(1_000_000, float(meta["i"])))
    assert "data" in seen


def test_full_disk_leaves_the_old_store(stored):
    """A limit on the size of files stands for a full disk: both are an OSError on writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = _store.load(stored)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match=r"(?s)Could not write .*untouched\. Free space"):
            _store.save(stored, {"u": np.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = _store.load(stored)
    assert before[1] == after[1]
    np.testing.assert_array_equal(before[0]["u"], after[0]["u"])
    assert len(list(stored.parent.iterdir())) == 1
    assert len(list(stored.iterdir())) == 2


def test_parent_that_vanishes_is_made_again(stored):
    shutil.rmtree(stored.parent)
    _store.save(stored, {}, {})
    assert _store.load(stored) == ({}, {})
