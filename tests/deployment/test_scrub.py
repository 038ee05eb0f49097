"""`lycia scrub` names what is damaged, and is silent about what is sound, also while a coordinator works."""

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lycia import simulate
from lycia.runtime.apps import load_app
from lycia.storage import parts
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Database, sqlite_url
from lycia.storage.findings import Damage, Findings
from lycia.storage.scrub import scrub
from lycia.storage.scrub_run import scrub_run
from lycia.storage.uploads import Upload, announce, note_part
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.kept import Left, begin, leave, play
from tests.deployment.raw_node import RawNode
from tests.postgres import Cluster

Told = tuple[int, str, str]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Left]:
    """What a coordinator left."""
    place = tmp_path_factory.mktemp("template")
    return place / "coordinator", leave(place / "coordinator", place / "nodes")


@pytest.fixture
def home(template: tuple[Path, Left], tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(template[0], tmp_path / "coordinator")


@pytest.fixture
def run(template: tuple[Path, Left]) -> str:
    return template[1].run


def ask(home: Path, question: str) -> list[str]:
    """A column of the database, as another program reads or changes it."""
    with closing(sqlite3.connect(home / "lycia.db")) as connection, connection:
        return [str(row[0]) for row in connection.execute(question)]


def blob(home: Path, digest: str) -> Path:
    return home / "blobs" / digest[:2] / digest[2:]


def flip(path: Path) -> None:
    """One bit of the file's last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


def only(found: Findings, file: Path | str) -> Damage:
    """The one damage that a file has."""
    (damage,) = {damage for damage in found.damages if damage.file == str(file)}
    assert damage.what
    assert damage.means
    assert damage.do
    return damage


def test_what_a_coordinator_left_in_the_middle_of_a_round_is_sound(home: Path):
    found = scrub(home)
    assert found.damages == ()
    assert found.orphans == ()
    assert found.runs == 1
    assert found.files > 2


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: path.write_bytes(b"")], ids=["flip", "gone", "empty"])
def test_a_damaged_model_is_named_with_its_round(home: Path, run: str, harm: Callable[[Path], None]):
    (digest,) = ask(home, "SELECT digest FROM models WHERE round = 0")
    harm(blob(home, digest))
    found = scrub(home)
    (of_round,) = [damage for damage in found.damages if damage.round == 0]
    assert (of_round.run, of_round.file) == (run, str(blob(home, digest)))
    assert "the model of round 0" in of_round.what
    assert "those of other rounds can" in of_round.means
    assert found.orphans is None


def test_the_newest_model_is_what_the_run_needs_to_go_on(home: Path, run: str):
    (digest,) = ask(home, "SELECT digest FROM models WHERE round = 1")
    flip(blob(home, digest))
    (newest,) = [damage for damage in scrub(home).damages if damage.round is None]
    assert newest.run == run
    assert newest.means == "the run cannot go on."
    assert f"lycia model {run} --round N" in newest.do


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: path.write_bytes(b"")], ids=["flip", "gone", "empty"])
def test_an_update_that_the_open_round_has_heard_is_named_if_it_is_damaged(
    home: Path, run: str, harm: Callable[[Path], None]
):
    (update,) = (home / "spool").iterdir()
    harm(update)
    damage = only(scrub(home), update)
    assert "heard, of north," in damage.what
    assert damage.run == run
    assert "The rounds that ended" in damage.means


def test_an_update_that_is_on_its_way_is_checked_as_far_as_it_has_come(home: Path, run: str):
    def expects(number: int) -> Upload:
        """Two parts, of which the first one is here."""
        content = [bytes([number]) * parts.PART_BYTES, b"the rest"]
        upload = Upload(run, number, "south", parts.PART_BYTES + 8, tuple(parts.digests(piece)[0] for piece in content))
        (home / "spool" / upload.id).write_bytes(content[0] + bytes(8))
        database = Database(sqlite_url(home / "lycia.db"))
        asyncio.run(database.write(lambda connection: announce(connection, upload)))
        asyncio.run(database.write(lambda connection: note_part(connection, upload.id, 0)))
        database.close()
        return upload

    sound, damaged = expects(90), expects(91)
    assert (scrub(home).damages, scrub(home).orphans) == ((), ())
    path = home / "spool" / damaged.id
    path.write_bytes(b"x" + path.read_bytes()[1:])
    damage = only(scrub(home), path)
    assert "south is sending is damaged: part 0" in damage.what
    assert len(scrub(home).damages) == 1
    assert (home / "spool" / sound.id).exists()


def test_the_list_of_a_large_blobs_parts_is_checked(home: Path):
    blobs = BlobFolder(home / "blobs")
    digest = blobs.put([bytes(parts.PART_BYTES), b"more"])
    ask(home, f"INSERT INTO models (run, round, digest) SELECT id, 7, '{digest}' FROM runs")
    listed = blobs.files(digest)[1]
    found = scrub(home)
    assert [damage.what for damage in found.damages if "list" in damage.what] == []
    listed.write_text("nonsense")
    damage = only(scrub(home), listed)
    assert "is made again" in damage.do


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM events WHERE seq = 1", "a line of it is missing"),
        ("UPDATE events SET line = substr(line, 1, 20) WHERE seq = 1", "a line of the journal cannot be read"),
        ("UPDATE events SET line = replace(line, 'Asked', 'Closed') WHERE seq = 1", "cannot be read"),
        ("DELETE FROM events WHERE seq = 0", "a line of it is missing"),
    ],
)
def test_a_damaged_journal_is_named_with_its_round(home: Path, run: str, change: str, words: str):
    ask(home, change)
    damage = only(scrub(home), "table events")
    assert words in damage.what
    assert (damage.run, damage.round) == (run, 1)
    assert "The rounds that ended, and their models, are not affected." in damage.means


def test_a_record_that_is_missing_or_cannot_be_read_is_named(home: Path, run: str):
    ask(home, "UPDATE records SET json = substr(json, 1, 30)")
    assert "cannot be read" in only(scrub(home), "table records").what
    ask(home, "UPDATE records SET number = 5")
    assert any("the record number 0 is missing" in damage.what for damage in scrub(home).damages)


def test_a_run_whose_state_cannot_be_read_is_named(home: Path, run: str):
    ask(home, "UPDATE runs SET carried = 'x'")
    assert only(scrub(home), "table runs").run == run


def test_a_database_that_is_damaged_is_told_as_such(home: Path):
    file = home / "lycia.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(file.read_bytes())
    content[size * 2 : size * 4] = b"\xaa" * size * 2
    file.write_bytes(content)
    found = scrub(home)
    assert any("the database" in damage.what and "damaged" in damage.what for damage in found.damages)
    assert found.orphans is None


def test_a_row_that_belongs_to_nothing_is_named(home: Path):
    ask(home, "INSERT INTO models (run, round, digest) VALUES ('no such run', 0, 'x')")
    assert "belongs to nothing in runs" in only(scrub(home), "table models").what


@pytest.mark.parametrize("name", ["certificate.pem", "certificate.key", "operator.pem", "session.secret"])
def test_a_key_that_is_gone_is_named(home: Path, name: str):
    (home / name).unlink()
    assert name in only(scrub(home), home / name).what


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command_is_silent_about_a_sound_folder_and_ends_well(home: Path, lycia: Callable[..., Told]):
    status, out, _ = lycia("scrub", "--home", str(home))
    assert status == 0
    assert "all sound" in out
    status, out, _ = lycia("scrub", "--home", str(home), "--json")
    said = json.loads(out)
    assert (status, said["sound"], said["damages"], said["orphans"]) == (0, True, [], [])


def test_the_command_names_damage_and_ends_with_1(home: Path, run: str, lycia: Callable[..., Told]):
    (digest,) = ask(home, "SELECT digest FROM models WHERE round = 0")
    flip(blob(home, digest))
    status, out, _ = lycia("scrub", "--home", str(home))
    assert status == 1
    for told in (run, str(blob(home, digest)), "means:", "do:"):
        assert told in out
    status, out, _ = lycia("scrub", "--home", str(home), "--json")
    said = json.loads(out)
    assert (status, said["sound"]) == (1, False)
    assert {damage["round"] for damage in said["damages"]} == {None, 0}


def test_what_nothing_refers_to_is_found_and_removed_when_asked(home: Path, lycia: Callable[..., Told]):
    strays = [home / "blobs" / "ab" / ("c" * 62), home / "blobs" / "arriving" / "half"]
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"12345")
    before = sum(path.is_file() for path in home.rglob("*"))
    status, out, _ = lycia("scrub", "--home", str(home))
    assert status == 0
    assert "2 files (10 bytes) that nothing refers to" in out
    assert all(stray.exists() for stray in strays)
    status, out, _ = lycia("scrub", "--home", str(home), "--remove")
    assert (status, "removed 2 files (10 bytes)" in out) == (0, True)
    assert not any(stray.exists() for stray in strays)
    assert sum(path.is_file() for path in home.rglob("*")) == before - 2 + (home / "held").exists()
    assert scrub(home).damages == ()


def test_nothing_is_removed_where_something_is_damaged(home: Path, lycia: Callable[..., Told]):
    ask(home, "UPDATE runs SET carried = 'x'")
    before = sorted(path for path in (home / "blobs").rglob("*"))
    status, _, _ = lycia("scrub", "--home", str(home), "--remove")
    assert status == 1
    assert sorted(path for path in (home / "blobs").rglob("*")) == before


def test_nothing_is_removed_while_somebody_serves(home: Path, lycia: Callable[..., Told]):
    from lycia.deployment.holding import held

    with held(home, "the coordinator"):
        status, out, err = lycia("scrub", "--home", str(home), "--remove")
        assert status == 1
        assert "runs already" in err
        status, out, _ = lycia("scrub", "--home", str(home))
        assert status == 0
        assert "were not looked for" in out


def test_a_folder_in_which_no_coordinator_ever_was_is_told(tmp_path: Path, lycia: Callable[..., Told]):
    status, _, err = lycia("scrub", "--home", str(tmp_path))
    assert status == 1
    assert "no coordinator's state" in err
    assert list(tmp_path.glob("held")) == []


# ------------------------------------------------------------------------------------------------------------- at work


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[[Coordinator], list[RawNode]]]:
    """Makes two nodes of a coordinator."""
    with ExitStack() as stack:

        def make(coordinator: Coordinator) -> list[RawNode]:
            return [
                stack.enter_context(closing(RawNode(coordinator.invite(name), tmp_path / name)))
                for name in ("north", "south")
            ]

        yield make


@pytest.mark.parametrize("kept", ["sqlite", "postgres"])
def test_a_coordinator_at_work_is_found_sound(
    tmp_path: Path, nodes: Callable[[Coordinator], list[RawNode]], kept: str, request: pytest.FixtureRequest
):
    server: Cluster | None = request.getfixturevalue("postgres") if kept == "postgres" else None
    database = server.fresh() if server else ""
    with Coordinator(tmp_path / "coordinator", database=database) as coordinator:
        pair = nodes(coordinator)
        run = begin(coordinator, *pair)
        working = threading.Thread(target=play, args=(coordinator, run, *pair))
        working.start()
        looks = 0
        while working.is_alive() or not looks:
            found = scrub(coordinator.home, database, is_served=True)
            assert found.damages == ()
            assert found.orphans is None
            looks += 1
        working.join()
        assert coordinator.client.get(f"/v1/runs/{run}")["state"] == "finished"
    found = scrub(coordinator.home, database)
    assert (found.damages, found.orphans, found.runs) == ((), (), 1)


# ------------------------------------------------------------------------------------------------------- simulated runs


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    """The folder of a simulated run that stopped after two rounds."""
    app = load_app(APP)
    from dataclasses import replace

    some = {name: app.population[name] for name in ("node-0", "node-1")}
    simulate(replace(app, population=some), directory=tmp_path / "run", until_round=2)
    return tmp_path / "run"


def test_the_folder_of_a_simulated_run_is_sound(simulated: Path, lycia: Callable[..., Told]):
    found = scrub_run(simulated)
    assert (found.damages, found.orphans) == ((), ())
    assert lycia("scrub", "--home", str(simulated))[0] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.json", "run.json cannot be read"), ("current.json", "current.json cannot be read"),
        ("records.jsonl", "records.jsonl has"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_a_simulated_run_is_named(simulated: Path, name: str, words: str):
    (simulated / name).write_text("{")
    assert words in only(scrub_run(simulated), simulated / name).what


def test_a_damaged_blob_of_a_simulated_run_is_named_with_its_round(simulated: Path, lycia: Callable[..., Told]):
    models = dict(map(tuple, json.loads((simulated / "current.json").read_text())["models"]))
    path = simulated / "blobs" / models[1][:2] / models[1][2:]
    flip(path)
    damage = only(scrub_run(simulated), path)
    assert (damage.run, damage.round) == (simulated.name, 1)
    assert lycia("scrub", "--home", str(simulated))[0] == 1


def test_what_nothing_refers_to_in_a_simulated_run_is_removed_when_asked(simulated: Path, lycia: Callable[..., Told]):
    strays = [simulated / "journal-99.jsonl", simulated / "blobs" / "ab" / ("c" * 62)]
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"12345")
    assert set(scrub_run(simulated).orphans or ()) == set(strays)
    assert lycia("scrub", "--home", str(simulated), "--remove")[0] == 0
    assert scrub_run(simulated).orphans == ()
