"""A backup is whole or is none; what goes on from it is the run as it was, and nothing newer gets into it."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from lycia.core.events import Asked, Closed, Opened
from lycia.errors import NotFound, StorageError
from lycia.storage.backup import back_up
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import reading, sqlite_url
from lycia.storage.homes import BLOBS, DATABASE, KEYS, check_whole
from lycia.storage.nodes import list_nodes
from lycia.storage.packs import open_pack
from lycia.storage.restoring import restore
from lycia.storage.runs import get_run, journal_of_run, models_of_run, records_of_run
from lycia.storage.scrub import scrub
from lycia.storage.tables import MODELS, RUNS
from tests.deployment.in_process import Coordinator
from tests.deployment.kept import Left, again, begin, leave, play
from tests.deployment.raw_node import Draft, RawNode
from tests.storage import material

ROOT = Path(__file__).parents[2]
Told = tuple[int, str, str]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Left]:
    """What a coordinator left in the middle of a run's second round, and its nodes beside it."""
    place = tmp_path_factory.mktemp("template")
    return place, leave(place / "coordinator", place / "nodes")


@pytest.fixture
def place(template: tuple[Path, Left], tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(template[0], tmp_path / "place")


@pytest.fixture
def left(template: tuple[Path, Left]) -> Left:
    return template[1]


@pytest.fixture(params=["folder", "tar"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where to back up to, in both forms."""
    return tmp_path / ("kept" if request.param == "folder" else "kept.tar")


def known(url: str, run: str) -> tuple[Any, ...]:
    """What a database knows of members, models and records."""
    with reading(url) as connection:
        return list_nodes(connection), models_of_run(connection, run), records_of_run(connection, run)


def carried(home: Path, run: str) -> dict[str, Any]:
    """What a run carries from round to round."""
    with closing(sqlite3.connect(home / DATABASE)) as connection:
        (text,) = connection.execute("SELECT carried FROM runs WHERE id = ?", (run,)).fetchone()
    return dict(json.loads(text))


def test_what_is_restored_is_what_was_backed_up_and_its_run_waits(place: Path, left: Left, target: Path):
    home, new = place / "coordinator", place / "new"
    about = back_up(home, target)
    assert about["runs"] == [{"id": left.run, "state": "running"}]
    said = restore(target, new)
    assert said["paused"] == [left.run]
    assert known(sqlite_url(new / DATABASE), left.run) == known(sqlite_url(home / DATABASE), left.run)
    for name in KEYS:
        assert (new / name).read_bytes() == (home / name).read_bytes()
    found = scrub(new)
    assert (found.damages, found.orphans) == ((), ())
    with reading(sqlite_url(new / DATABASE)) as connection:
        row = get_run(connection, left.run)
        assert row.state == "paused"
        assert row.reason.startswith(f"restored from a backup of {about['made']}")
        assert f"lycia resume {left.run}" in row.reason
        assert journal_of_run(connection, left.run) == []


def test_what_is_backed_up_and_restored_only_its_owner_may_read(place: Path, left: Left, target: Path):
    back_up(place / "coordinator", target)
    restore(target, place / "new")
    assert target.stat().st_mode & 0o077 == 0
    for folder in (target, place / "new"):
        secret = [folder / DATABASE, *(folder / name for name in KEYS)] if folder.is_dir() else []
        assert [path for path in secret if path.stat().st_mode & 0o077] == []


def test_the_secret_of_the_open_round_is_in_no_backup(place: Path, left: Left, target: Path):
    home = place / "coordinator"
    with reading(sqlite_url(home / DATABASE)) as connection:
        opened = journal_of_run(connection, left.run)[0]
    assert isinstance(opened, Opened)
    back_up(home, target)
    secret = b64encode(opened.secret)
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if secret in path.read_bytes()] == []


def test_a_run_goes_on_from_a_backup_elsewhere_to_its_end_and_takes_nothing_that_was_made_after_it(
    place: Path, left: Left, target: Path
):
    home, new, nodes = place / "coordinator", place / "new", place / "nodes"
    back_up(home, target)
    # Given that the run went on after the backup, to a round that the backup knows nothing of
    with Coordinator(home, port=left.port) as coordinator, ExitStack() as stack:
        north, south = (
            stack.enter_context(closing(again(home, name, nodes, left.port))) for name in ("north", "south")
        )
        stale = None
        while stale is None:
            for node in (north, south):
                ask = node.poll(0.1)
                if ask is not None and ask.round == 2 and node is south:
                    stale = ask
                elif ask is not None:
                    node.answer(ask, Draft.file)
        layout = south.layout(stale)
        late = Draft(stale, "south", layout, 5 * Draft(stale, "south", layout, _ones(layout)).delta).file()
    # When a coordinator goes on from the backup, on another disk
    restore(target, new)
    with Coordinator(new, port=left.port) as coordinator, ExitStack() as stack:
        north, south = (stack.enter_context(closing(again(new, name, nodes, left.port))) for name in ("north", "south"))
        facts = coordinator.client.get(f"/v1/runs/{left.run}")
        assert (facts["state"], len(facts["records"])) == ("paused", 1)
        # Then what a node had for the old life's rounds is refused, before and after the run goes on
        for ask in (left.asked, stale):
            assert south.answer(ask, Draft.file) != ""
        coordinator.client.post(f"/v1/runs/{left.run}/resume")
        north.poll(0.0)
        fresh = south.poll(10.0)
        assert fresh is not None
        assert fresh.round == 1
        assert fresh.task >= 1 << 20
        assert "over" in south.send(stale, late)
        assert south.answer(left.asked, Draft.file) != ""
        # and the run ends with the model of the same run where nothing had happened
        facts = play(coordinator, left.run, north, south)
        assert facts["state"] == "finished"
        assert [record["survivors"] for record in facts["records"]] == [["north", "south"]] * 3
        assert [record["model"] for record in facts["records"]] == undisturbed(place)
    assert scrub(new).damages == ()


def _ones(layout: Any) -> Any:
    import numpy as np

    return np.ones(layout.size("trained"), np.float32)


def undisturbed(place: Path) -> list[str]:
    """The models of the same run where nothing happens."""
    with Coordinator(place / "quiet") as coordinator, ExitStack() as stack:
        pair = [
            stack.enter_context(closing(RawNode(coordinator.invite(name), place / "quiet-nodes" / name)))
            for name in ("north", "south")
        ]
        facts = play(coordinator, begin(coordinator, *pair), *pair)
        return [record["model"] for record in facts["records"]]


def test_two_restores_of_one_backup_ask_under_other_numbers(place: Path, left: Left, target: Path):
    back_up(place / "coordinator", target)
    before = carried(place / "coordinator", left.run)
    lives = []
    for name in ("one", "two"):
        restore(target, place / name)
        lives.append(carried(place / name, left.run))
    for life in lives:
        assert life["task"] - before["task"] >= 1 << 20
        assert life["attempt"] > before["attempt"] + 1000
        assert life["attempt"] % 4 == 0, "the run has all its tries at the round before it pauses"
        assert life["inflight"] == []
        assert {name: life[name] for name in ("model", "arrays", "frozen", "round", "norms")} == {
            name: before[name] for name in ("model", "arrays", "frozen", "round", "norms")
        }
    assert lives[0]["task"] != lives[1]["task"]


def test_a_run_that_is_over_comes_back_as_it_was(place: Path, left: Left, target: Path):
    home = place / "coordinator"
    with Coordinator(home) as coordinator:
        coordinator.client.post(f"/v1/runs/{left.run}/stop")
        facts = coordinator.client.get(f"/v1/runs/{left.run}")
    back_up(home, target)
    assert restore(target, place / "new")["paused"] == []
    with reading(sqlite_url(place / "new" / DATABASE)) as connection:
        row = get_run(connection, left.run)
    assert (row.state, row.reason, row.ended_s) == (facts["state"], facts["reason"], facts["ended"])


def home_of(place: material.DatabasePlace) -> Path:
    """The folder of a run as a coordinator's, with keys."""
    for name in KEYS:
        (place.path / name).write_text(name)
    return place.path


@pytest.fixture
def kept_run(tmp_path: Path) -> Iterator[material.DatabasePlace]:
    """A run in a coordinator's folder that is only its files."""
    found = material.DatabasePlace(tmp_path / "home", lambda path: sqlite_url(path / DATABASE))
    yield found
    found.stop()


def test_a_round_whose_model_is_made_keeps_its_record_and_goes_on_after_it(
    kept_run: material.DatabasePlace, tmp_path: Path
):
    asked = Asked(0.1, 0, "train", ("ada", "bob"))
    heard = [replace(material.heard(0, name), task=0, handles=("",)) for name in ("ada", "bob")]
    material.make(
        kept_run.open(),
        [material.begin(), material.append(material.opened(0), asked, *heard), material.advance(0)],
    )
    back_up(home_of(kept_run), tmp_path / "kept")
    restore(tmp_path / "kept", tmp_path / "new")
    with reading(sqlite_url(tmp_path / "new" / DATABASE)) as connection:
        (record,) = records_of_run(connection, material.RUN.id)
        assert journal_of_run(connection, material.RUN.id) == []
        assert len(models_of_run(connection, material.RUN.id)) == 2
    assert (record["round"], record["survivors"], record["missed"]) == (0, ["ada", "bob"], "")
    life = carried(tmp_path / "new", material.RUN.id)
    assert (life["round"], life["model"]) == (1, material.digest_of(material.carried_into(1)))
    with reading(sqlite_url(tmp_path / "kept" / DATABASE)) as connection:
        opened, *_, closed = journal_of_run(connection, material.RUN.id)
    assert isinstance(opened, Opened)
    assert isinstance(closed, Closed)
    assert opened.secret == b""


def test_a_run_that_was_only_on_the_list_begins_under_numbers_of_its_own(
    kept_run: material.DatabasePlace, tmp_path: Path
):
    first = kept_run.open()._blobs.put(material.LAYOUT.file(material.carried_into(0).model))
    kept_run._ask(lambda connection: connection.execute(update(RUNS).values(first_model=first)))
    back_up(home_of(kept_run), tmp_path / "kept")
    restore(tmp_path / "kept", tmp_path / "new")
    life = carried(tmp_path / "new", material.RUN.id)
    assert (life["round"], life["model"]) == (0, first)
    assert life["task"] >= 1 << 20
    assert scrub(tmp_path / "new").damages == ()


def test_a_backup_is_made_again_until_no_round_has_replaced_what_it_names(
    kept_run: material.DatabasePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from lycia.storage import backup as room

    material.make(kept_run.open(), [material.begin(), *material.one_round(0)])
    real, rounds = room._copy, iter((1, 2, 3))

    def a_round_meanwhile(*args: Any) -> None:
        real(*args)
        number = next(rounds, None)
        if number is not None:
            store, before = kept_run.open(), carried(home_of(kept_run), material.RUN.id)["arrays"]
            asyncio.run(store.resume())
            material.make(store, material.one_round(number))
            # A coordinator that keeps few rounds lets go of what it needs no more.
            kept_run._ask(lambda connection: connection.execute(update(MODELS).values(carried=None)))
            BlobFolder(kept_run.blobs).remove(before)

    monkeypatch.setattr(room, "_copy", a_round_meanwhile)
    back_up(home_of(kept_run), tmp_path / "kept")
    restore(tmp_path / "kept", tmp_path / "new")
    assert carried(tmp_path / "new", material.RUN.id)["round"] == 4
    assert scrub(tmp_path / "new").damages == ()


@pytest.mark.parametrize("kept", ["sqlite", "postgres"])
def test_a_backup_under_load_is_of_one_moment(tmp_path: Path, kept: str, request: pytest.FixtureRequest):
    database = request.getfixturevalue("postgres").fresh() if kept == "postgres" else ""
    with Coordinator(tmp_path / "coordinator", database=database) as coordinator, ExitStack() as stack:
        pair = [
            stack.enter_context(closing(RawNode(coordinator.invite(name), tmp_path / name)))
            for name in ("north", "south")
        ]
        run = begin(coordinator, *pair)
        working = threading.Thread(target=play, args=(coordinator, run, *pair))
        working.start()
        made = 0
        while working.is_alive() or not made:
            back_up(coordinator.home, tmp_path / f"kept-{made}", database)
            made += 1
        working.join()
        records = coordinator.client.get(f"/v1/runs/{run}")["records"]
    back_up(coordinator.home, tmp_path / f"kept-{made}", database)
    for number in range(made + 1):
        new = tmp_path / f"new-{number}"
        restore(tmp_path / f"kept-{number}", new)
        assert scrub(new).damages == ()
        nodes, models, found = known(sqlite_url(new / DATABASE), run)
        assert {node.name for node in nodes} == {"operator", "north", "south"}
        ended = [json.loads(json.dumps(record)) for record in found]
        assert [record["model"] for record in ended] == [record["model"] for record in records[: len(ended)]]
        assert len(models) in (len(ended), len(ended) + 1) or not models
    assert len(found) == 3


@pytest.mark.parametrize(
    ("before", "after"), [("sqlite", "postgres"), ("postgres", "sqlite"), ("postgres", "postgres")]
)
def test_a_backup_moves_a_coordinator_from_one_kind_of_database_to_another(
    tmp_path: Path, before: str, after: str, request: pytest.FixtureRequest
):
    server = request.getfixturevalue("postgres")
    database, following = (server.fresh() if kind == "postgres" else "" for kind in (before, after))
    home, new, nodes = tmp_path / "home", tmp_path / "new", tmp_path / "nodes"
    left = leave(home, nodes, database)
    back_up(home, tmp_path / "kept", database)
    restore(tmp_path / "kept", new, following)
    old_url, new_url = database or sqlite_url(home / DATABASE), following or sqlite_url(new / DATABASE)
    assert known(new_url, left.run) == known(old_url, left.run)
    assert (new / DATABASE).exists() == (after == "sqlite")
    assert scrub(new, following).damages == ()
    with Coordinator(new, port=left.port, database=following) as coordinator, ExitStack() as stack:
        pair = [stack.enter_context(closing(again(new, name, nodes, left.port))) for name in ("north", "south")]
        coordinator.client.post(f"/v1/runs/{left.run}/resume")
        assert play(coordinator, left.run, *pair)["state"] == "finished"


# ------------------------------------------------------------------------------------------------------ what is refused


def test_nothing_is_replaced_by_a_backup_or_a_restore(place: Path, left: Left, target: Path):
    home = place / "coordinator"
    back_up(home, target)
    with pytest.raises(StorageError, match="is there already"):
        back_up(home, target)
    before = sorted(path for path in home.rglob("*"))
    with pytest.raises(StorageError, match="is not empty"):
        restore(target, home)
    assert sorted(path for path in home.rglob("*")) == before


def test_a_database_that_is_not_empty_is_left_alone(
    place: Path, left: Left, target: Path, request: pytest.FixtureRequest
):
    server = request.getfixturevalue("postgres")
    url = server.fresh()
    server.ask("CREATE TABLE settings (key text)", url)
    back_up(place / "coordinator", target)
    with pytest.raises(StorageError, match="is not empty"):
        restore(target, place / "new", url)
    assert not (place / "new").exists()


def members(target: Path) -> list[str]:
    return sorted(open_pack(target).files)


@pytest.mark.parametrize("which", ["manifest.json", DATABASE, "operator.pem", "a blob"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_backup_is_refused_by_name(place: Path, left: Left, tmp_path: Path, which: str, harm: str):
    target = tmp_path / "kept"
    back_up(place / "coordinator", target)
    name = next(name for name in members(target) if name.startswith(BLOBS)) if which == "a blob" else which
    path = target / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 if which != "manifest.json" else 0x80
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    with pytest.raises(StorageError, match=name):
        restore(target, place / "new")
    assert not (place / "new").exists()


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_damaged_tar_file_is_refused(place: Path, left: Left, tmp_path: Path, harm: str):
    target = tmp_path / "kept.tar"
    back_up(place / "coordinator", target)
    content = bytearray(target.read_bytes())
    middle = content.index(b"PRIVATE KEY")
    content[middle] ^= 1
    target.write_bytes(content if harm == "flip" else content[:middle])
    with pytest.raises(StorageError, match=r"is damaged|is not a whole backup"):
        restore(target, place / "new")
    assert not (place / "new").exists()


def test_what_is_no_backup_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"no tar")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(StorageError, match="not a whole backup"):
            restore(tmp_path / name, tmp_path / "new")
    with pytest.raises(NotFound):
        restore(tmp_path / "nothing", tmp_path / "new")


def test_a_backup_of_a_newer_version_is_refused(place: Path, left: Left, tmp_path: Path):
    target = tmp_path / "kept"
    back_up(place / "coordinator", target)
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(StorageError, match="format 99"):
        restore(target, place / "new")


def test_what_is_damaged_is_not_backed_up_and_is_named(place: Path, left: Left, target: Path):
    home = place / "coordinator"
    with closing(sqlite3.connect(home / DATABASE)) as connection:
        (digest,) = connection.execute("SELECT digest FROM models WHERE round = 0").fetchone()
    path = home / BLOBS / digest[:2] / digest[2:]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"no backup was made: the blob {digest[:12]}… is damaged") as refused:
        back_up(home, target)
    assert "lycia scrub" in refused.value.do
    assert list(target.parent.glob("kept*")) == []


# ---------------------------------------------------------------------------------------------------------- killed


@pytest.fixture
def crashing() -> Iterator[Callable[..., str]]:
    """Runs a command in a process that kills itself at its n-th sync; returns "killed", or the exit status."""
    if not hasattr(os, "fork"):
        pytest.skip("the lives of the process are forks of one")
    command = [sys.executable, "-m", "tests.deployment.crashing"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(last: int, *arguments: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([last, *arguments]) + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield run
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.slow
def test_a_backup_that_is_killed_anywhere_is_none_or_whole(
    place: Path, left: Left, target: Path, crashing: Callable[..., str]
):
    home, last, ended = place / "coordinator", 0, ""
    while ended != "0":
        ended = crashing(last, "backup", str(target), "--home", str(home))
        assert ended in ("killed", "0")
        if ended == "killed" and not target.exists():
            half = target.with_name(f"{target.name}.part")
            if (half / "manifest.json").exists():  # all of it is there, but its name
                restore(half, place / f"new-{last}")
                assert scrub(place / f"new-{last}").damages == ()
            else:
                with pytest.raises(StorageError, match="not a whole backup"):
                    restore(half, place / "new")
                assert not (place / "new").exists()
        else:
            restore(target, place / f"new-{last}")
            assert scrub(place / f"new-{last}").damages == ()
            if ended == "killed":
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        last += 1
    assert last > 3
    assert [path.name for path in target.parent.glob("kept*")] == [target.name]


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["sqlite", "postgres"])
def test_a_restore_that_is_killed_anywhere_serves_nobody_and_can_be_made_again(
    place: Path, left: Left, tmp_path: Path, crashing: Callable[..., str], kept: str, request: pytest.FixtureRequest
):
    server = request.getfixturevalue("postgres") if kept == "postgres" else None
    back_up(place / "coordinator", tmp_path / "kept")
    last, ended = 0, ""
    while ended != "0":
        new, url = place / f"new-{last}", server.fresh() if server else ""
        more = ["--database", url] if url else []
        ended = crashing(last, "restore", str(tmp_path / "kept"), "--home", str(new), *more)
        assert ended in ("killed", "0")
        is_whole = ended == "0"
        if ended == "killed" and (new / "restoring").exists():
            with pytest.raises(StorageError, match="is not whole"):
                check_whole(new)
            with pytest.raises(StorageError, match="is not whole"):
                Coordinator(new, database=url).start()
            assert crashing(-1, "restore", str(tmp_path / "kept"), "--home", str(new), *more) == "0"
            is_whole = True
        if is_whole:
            assert (
                known(url or sqlite_url(new / DATABASE), left.run)[1:]
                == known(sqlite_url(place / "coordinator" / DATABASE), left.run)[1:]
            )
            assert scrub(new, url).damages == ()
        last += 3 if server else 1  # each life on a server costs a database
    assert last > 5


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_commands_say_what_they_did_and_what_to_do_next(place: Path, left: Left, lycia: Callable[..., Told]):
    home, new = str(place / "coordinator"), str(place / "new")
    status, out, _ = lycia("backup", "kept.tar", "--home", home)
    assert status == 0
    assert "backed up 1 runs and" in out
    assert "keys" in out
    status, out, _ = lycia("restore", "kept.tar", "--home", new)
    assert status == 0
    assert f"paused: {left.run}" in out
    assert f"lycia serve --home {new}" in out
    status, out, _ = lycia("restore", "kept.tar", "--home", new, "--json")
    assert status == 1
    assert "is not empty" in json.loads(out)["error"]["what"]
    status, out, _ = lycia("backup", "other", "--home", home, "--json")
    assert (status, json.loads(out)["backup"]) == (0, "other")
