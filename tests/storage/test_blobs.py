"""Blobs: named by what they hold, whole or not there."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.errors import NotFound, StorageError
from lycia.storage.blobs import BlobFolder
from tests.storage.killing import Killer


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFolder:
    return BlobFolder(tmp_path / "blobs")


def files(blobs: BlobFolder) -> list[Path]:
    return [path for path in blobs.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("pieces", [[], [b""], [b"a"], [b"ab", memoryview(b"cd"), b""], [b"x" * 3_000_000]])
def test_a_blob_is_named_by_the_sha256_of_its_bytes_however_it_was_cut(blobs: BlobFolder, pieces: list[bytes]):
    content = b"".join(pieces)
    digest = blobs.put(pieces)
    assert digest == hashlib.sha256(content).hexdigest()
    assert blobs.open(digest).tobytes() == content
    assert (blobs.has(digest), blobs.size(digest)) == (True, len(content))
    assert blobs.path(digest).relative_to(blobs.root) == Path(digest[:2], digest[2:])
    blobs.check(digest)


def test_numbers_of_any_shape_may_be_a_piece(blobs: BlobFolder):
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert blobs.open(blobs.put([numbers.data])).tobytes() == numbers.tobytes()


def test_a_blob_cannot_be_written_through(blobs: BlobFolder):
    assert blobs.open(blobs.put([b"model"])).readonly


def test_a_blob_that_is_there_is_not_written_again(blobs: BlobFolder):
    digest = blobs.put([b"model"])
    before = blobs.path(digest).stat()
    assert blobs.put([b"mod", b"el"]) == digest
    after = blobs.path(digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert files(blobs) == [blobs.path(digest)]


def test_a_blob_that_was_cut_short_is_mended_by_the_next_put(blobs: BlobFolder):
    digest = blobs.put([b"model"])
    blobs.path(digest).write_bytes(b"mod")
    assert blobs.open(blobs.put([b"model"])).tobytes() == b"model"


def test_a_removed_blob_is_gone_and_may_be_removed_again(blobs: BlobFolder):
    digest = blobs.put([b"model"])
    blobs.remove(digest)
    blobs.remove(digest)
    assert not blobs.has(digest)
    for ask in (blobs.open, blobs.size, blobs.check):
        with pytest.raises(NotFound, match="there is no blob"):
            ask(digest)


def test_what_is_mapped_stays_readable_after_the_blob_is_removed(blobs: BlobFolder):
    digest = blobs.put([b"model"])
    content = blobs.open(digest)
    blobs.remove(digest)
    assert content.tobytes() == b"model"


@given(
    st.one_of(
        st.text(),
        st.sampled_from(["../" * 20 + "etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "/" + "0" * 63]),
    )
)
def test_what_is_no_digest_never_becomes_a_path(name: str):
    blobs = BlobFolder(Path("nowhere"), read_only=True)
    for ask in (blobs.path, blobs.has, blobs.size, blobs.open, blobs.remove, blobs.check):
        with pytest.raises(NotFound, match="not the digest"):
            ask(name)


def test_a_damaged_blob_is_found_out(blobs: BlobFolder):
    digest = blobs.put([b"model"])
    blobs.path(digest).write_bytes(b"MODEL")
    with pytest.raises(StorageError, match="damaged"):
        blobs.check(digest)


def test_a_body_that_arrives_in_pieces_has_no_name_before_it_is_whole(blobs: BlobFolder):
    with blobs.incoming() as body:
        body.write(b"mo")
        body.write(memoryview(b"del"))
        assert body.size_bytes == 5
        assert not blobs.has(body.digest)
        digest = body.commit()
    assert digest == body.digest == hashlib.sha256(b"model").hexdigest()
    assert files(blobs) == [blobs.path(digest)]


def test_a_body_that_is_given_up_leaves_nothing(blobs: BlobFolder):
    body = blobs.incoming()
    body.write(b"model")
    body.abort()
    body.abort()
    assert files(blobs) == []


def test_a_body_whose_sender_fails_leaves_nothing(blobs: BlobFolder):
    def pieces():
        yield b"mo"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        blobs.put(pieces())
    assert files(blobs) == []


def test_a_body_may_fill_its_limit_but_not_pass_it(blobs: BlobFolder):
    with blobs.incoming(limit_bytes=5) as body:
        body.write(b"model")
        body.commit()
    with blobs.incoming(limit_bytes=5) as body, pytest.raises(StorageError, match="longer than 5 bytes"):
        body.write(b"models")
    assert len(files(blobs)) == 1


def test_bodies_that_arrive_together_do_not_mix(blobs: BlobFolder):
    with blobs.incoming() as one, blobs.incoming() as other:
        one.write(b"a")
        other.write(b"b")
        one.write(b"a")
        digests = (one.commit(), other.commit())
    assert [blobs.open(digest).tobytes() for digest in digests] == [b"aa", b"b"]


def test_what_a_crash_left_half_written_is_removed_at_the_next_start(blobs: BlobFolder):
    digest = blobs.put([b"model"])
    body = blobs.incoming()
    body.write(b"half")
    left = files(blobs)
    BlobFolder(blobs.root)
    assert len(left) == 2
    assert files(blobs) == [blobs.path(digest)]
    body.abort()


def test_whoever_only_reads_leaves_alone_what_is_being_written(blobs: BlobFolder):
    with blobs.incoming() as body:
        body.write(b"model")
        BlobFolder(blobs.root, read_only=True)
        assert blobs.open(body.commit()).tobytes() == b"model"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is writable for root")
def test_a_folder_that_cannot_be_written_is_told_in_words(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be used"):
        BlobFolder(tmp_path / "blobs")


def test_a_folder_that_is_a_file_is_told_in_words(tmp_path: Path):
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be used"):
        BlobFolder(tmp_path / "blobs")


def test_a_blob_is_on_the_disk_before_it_has_a_name_and_its_name_before_it_is_acknowledged(blobs: BlobFolder):
    operations = Killer(None)
    with operations.watching():
        blobs.put([b"model"])
    made_folder = ["mkdir", "fsync"]
    assert operations.done == ["write", "fsync", *made_folder, "replace", "fsync"]


def test_without_fsync_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", None)
    blobs = BlobFolder(tmp_path / "blobs", fsync=False)
    assert blobs.open(blobs.put([b"model"])).tobytes() == b"model"


def test_a_system_that_is_not_posix_gets_along_without_syncing_folders(
    blobs: BlobFolder, monkeypatch: pytest.MonkeyPatch
):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr("lycia.storage.disk._IS_POSIX", False)
    blobs.put([b"model"])
    assert len(synced) == 1
