"""A file of a data set is found, or fetched once, and is never another one than it should be."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from lycia.data import Schema
from lycia.data.datasets import DATASETS, Dataset, File, download
from lycia.data.datasets.finding import cache_folder, content_of, is_at_hand
from lycia.errors import DataError, NotFound
from tests.data.shelf import Shelf, served

CONTENT = b"of all the fishes " * 20_000
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYCIA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LYCIA_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with served(Shelf({"/fish.txt": CONTENT, "/fish.txt.gz": gzip.compress(CONTENT)})) as offered:
        yield offered


def fishes(*addresses: str, name: str = "fish.txt") -> Dataset:
    file = File(name, len(CONTENT), sha256(CONTENT).hexdigest(), addresses)
    return Dataset("fishes", "Fishes", "fishes", "none", "nobody", "", Schema(shape=(1,)), (), (file,))


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_what_is_fetched_is_kept_and_not_fetched_again(shelf: Shelf, tmp_path: Path):
    known = fishes(f"{shelf.url}/fish.txt")
    assert not is_at_hand(known, ["fish.txt"])
    assert content_of(known, "fish.txt") == content_of(known, "fish.txt") == CONTENT
    assert len(shelf.asked) == 1
    assert [path.name for path in (tmp_path / "cache" / "fishes").iterdir()] == ["fish.txt"]
    assert is_at_hand(known, ["fish.txt"])


def test_the_folder_of_the_environment_comes_before_the_cache_and_the_address(shelf: Shelf, tmp_path: Path):
    put(tmp_path / "data" / "fishes" / "fish.txt", CONTENT)
    put(tmp_path / "cache" / "fishes" / "fish.txt", b"other")
    assert content_of(fishes(f"{shelf.url}/fish.txt"), "fish.txt") == CONTENT
    assert shelf.asked == []


def test_a_file_may_lie_gzipped_by_whatever_program(shelf: Shelf, tmp_path: Path):
    put(tmp_path / "data" / "fishes" / "fish.txt.gz", gzip.compress(CONTENT, compresslevel=1, mtime=7))
    assert content_of(fishes(), "fish.txt") == CONTENT


def test_a_file_that_is_published_gzipped_is_kept_so(shelf: Shelf, tmp_path: Path):
    known = fishes(f"{shelf.url}/fish.txt.gz")
    assert content_of(known, "fish.txt") == CONTENT
    assert (tmp_path / "cache" / "fishes" / "fish.txt.gz").read_bytes() == shelf.files["/fish.txt.gz"]


def test_a_transfer_that_breaks_off_goes_on_where_it_was(shelf: Shelf):
    shelf.cut["/fish.txt"] = [1000, 200_000]
    told: list[tuple[str, int, int | None]] = []
    content = content_of(fishes(f"{shelf.url}/fish.txt"), "fish.txt", lambda *progress: told.append(progress))
    assert content == CONTENT
    assert [wanted for _, wanted in shelf.asked] == ["", "bytes=1000-", "bytes=200000-"]
    assert told[-1] == ("fish.txt", len(CONTENT), len(CONTENT))


def test_a_server_that_cannot_go_on_in_the_middle_is_asked_for_the_whole(shelf: Shelf):
    shelf.ranges, shelf.cut["/fish.txt"] = False, [1000]
    assert content_of(fishes(f"{shelf.url}/fish.txt"), "fish.txt") == CONTENT


def test_a_transfer_that_always_breaks_off_at_one_place_is_given_up(shelf: Shelf, tmp_path: Path):
    shelf.cut["/fish.txt"] = [1000] * 9
    with pytest.raises(DataError, match=r"(?s)cannot be fetched.*RemoteProtocolError"):
        content_of(fishes(f"{shelf.url}/fish.txt"), "fish.txt")
    assert list((tmp_path / "cache" / "fishes").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>Sign in to this network</html>", f"36 bytes instead of {len(CONTENT)}"),
        (CONTENT + b".", f"more than {len(CONTENT)} bytes instead of"),
        (CONTENT[:-1] + b"?", "SHA-256 is [0-9a-f]{64} instead of [0-9a-f]{64}"),
        (gzip.compress(CONTENT)[:-9], "no whole gzip file"),
        (gzip.compress(CONTENT * 2), f"more than {len(CONTENT)} bytes"),
    ],
    ids=["a sign-in page", "more", "changed", "cut off while gzipped", "more while gzipped"],
)
def test_something_else_under_the_address_is_never_kept(shelf: Shelf, tmp_path: Path, content: bytes, said: str):
    shelf.files["/fish.txt"] = content
    with pytest.raises(DataError, match=said):
        content_of(fishes(f"{shelf.url}/fish.txt"), "fish.txt")
    assert list((tmp_path / "cache" / "fishes").iterdir()) == []


def test_the_next_address_is_tried_where_one_fails(shelf: Shelf):
    shelf.status["/broken"] = 503
    known = fishes(f"{shelf.url}/broken", f"{shelf.url}/missing", NOBODY, f"{shelf.url}/fish.txt")
    assert content_of(known, "fish.txt") == CONTENT
    assert [path for path, _ in shelf.asked] == ["/broken", "/missing", "/fish.txt"]


def test_who_is_offline_is_told_where_it_was_looked_for_and_what_to_do(tmp_path: Path):
    with pytest.raises(DataError) as told:
        content_of(fishes(NOBODY), "fish.txt")
    places = tmp_path / "data" / "fishes" / "fish.txt", tmp_path / "cache" / "fishes" / "fish.txt"
    assert all(str(place) in told.value.why for place in places)
    assert f"{NOBODY}: ConnectError" in told.value.why
    assert "set LYCIA_DATA to a folder that holds fishes/fish.txt" in told.value.do
    assert f"put the file at {places[1]}, or run this once on a machine that is online" in told.value.do


def test_a_file_without_an_address_must_be_brought(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LYCIA_DATA")
    with pytest.raises(DataError, match=r"(?s)is not here\..*LYCIA_DATA is not set.*must be brought by hand"):
        content_of(fishes(), "fish.txt")


@pytest.mark.parametrize(
    "content",
    [b"", CONTENT[:100], gzip.compress(CONTENT)[:100], b"\x1f\x8b rubbish"],
    ids=["empty", "cut off", "cut off while gzipped", "not gzipped"],  # gzip writes the time down
)
def test_a_damaged_file_in_the_cache_is_named_with_what_to_delete(shelf: Shelf, tmp_path: Path, content: bytes):
    path = tmp_path / "cache" / "fishes" / "fish.txt"
    put(path, content)
    with pytest.raises(DataError) as told:
        content_of(fishes(f"{shelf.url}/fish.txt"), "fish.txt")
    assert str(path) in told.value.what
    assert told.value.do == f"delete {path}; it is fetched again."
    assert shelf.asked == []


def test_a_damaged_file_that_somebody_brought_is_not_passed_over(shelf: Shelf, tmp_path: Path):
    path = tmp_path / "data" / "fishes" / "fish.txt"
    put(path, CONTENT[:100])
    with pytest.raises(DataError, match=f"100 bytes instead of {len(CONTENT)}") as told:
        content_of(fishes(f"{shelf.url}/fish.txt"), "fish.txt")
    assert told.value.do == f"put the right file at {path}."


def test_a_digest_may_be_of_a_part_and_a_file_without_that_part_is_damaged(tmp_path: Path):
    def first_line(content: bytes) -> bytes:
        if b"\n" not in content:
            raise ValueError("it has no first line")
        return content.split(b"\n")[0]

    file = File("part.txt", 5, sha256(b"ab").hexdigest(), (), first_line)
    known = Dataset("fishes", "Fishes", "fishes", "none", "nobody", "", Schema(shape=(1,)), (), (file,))
    put(tmp_path / "data" / "fishes" / "part.txt", b"ab\ncd")
    assert content_of(known, "part.txt") == b"ab\ncd"
    put(tmp_path / "data" / "fishes" / "part.txt", b"abcde")
    with pytest.raises(DataError, match="it has no first line"):
        content_of(known, "part.txt")


def test_a_cache_that_cannot_be_written_to_is_told(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path / "file", b"")
    monkeypatch.setenv("LYCIA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"(?s)cannot be kept as .*name another folder with LYCIA_CACHE"):
        content_of(fishes(f"{shelf.url}/fish.txt"), "fish.txt")


def test_two_processes_that_fetch_at_once_both_have_it_whole(shelf: Shelf, tmp_path: Path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom lycia.data.datasets.fetching import fetch\n"
        "reasons = fetch([sys.argv[1]], Path(sys.argv[2]), lambda part: '', None)\n"
        "print(reasons, len(Path(sys.argv[2]).read_bytes()))"
    )
    target = tmp_path / "cache" / "fish.txt"
    command = [sys.executable, "-c", program, f"{shelf.url}/fish.txt", str(target)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == [f"[] {len(CONTENT)}\n"] * 2
    assert [path.name for path in target.parent.iterdir()] == ["fish.txt"]


@pytest.mark.parametrize(
    ("system", "variables", "place"),
    [
        ("linux", {"XDG_CACHE_HOME": "/there"}, "/there/lycia"),
        ("linux", {}, "/me/.cache/lycia"),
        ("darwin", {}, "/me/Library/Caches/lycia"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/lycia/cache"),
    ],
)
def test_the_cache_is_where_the_system_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], place: str
):
    for name in ("LYCIA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("/me"))
    assert cache_folder().as_posix() == place


def test_a_data_set_is_fetched_before_it_is_needed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(DATASETS, "fishes", fishes(f"{shelf.url}/fish.txt"))
    told: list[str] = []
    download("fishes", lambda name, *_: told.append(name))
    download("fishes", lambda *_: told.append("again"))
    assert set(told) == {"fish.txt"}
    with pytest.raises(NotFound, match=r"(?s)no data set 'fish'.*there are: digits, mnist"):
        download("fish")
