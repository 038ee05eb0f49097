"""Joining: invitations for others, folders of others, and what is checked before an invitation is used."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lycia.deployment.holding import held
from lycia.deployment.identity import Identity, Invitation
from lycia.deployment.node.agent import join
from lycia.errors import AccessError, AppError, ConnectionFailed, DataError, StorageError, TrainingError
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import RawNode

POPULATED = (
    f"{APP.read_text()}\nfrom dataclasses import replace\nfrom functools import partial\napp = replace(app, population="
)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One for all tests of this page."""
    with Coordinator(tmp_path_factory.mktemp("coordinator")) as running:
        yield running


@pytest.fixture
def unused(coordinator: Coordinator, request: pytest.FixtureRequest) -> Invitation:
    """An invitation of this test's own."""
    return coordinator.invite(f"node-{time.monotonic_ns()}")


def still_good(invitation: Invitation, folder: Path) -> bool:
    """Whether a node can still enrol with it."""
    node = RawNode(invitation, folder)
    node.close()
    return True


def try_to_join(invitation: Invitation, home: Path, app: Path = APP, data: str = "node-0") -> None:
    """As `lycia join` does."""
    join(invitation, app, data, home, {}, lambda _: None)


# ---------------------------------------------------------------------------------------------------------- invitations


def test_an_invitation_runs_out(coordinator: Coordinator, tmp_path: Path):
    invitation = coordinator.invite("too-late", valid_s=1e-6)
    with pytest.raises(AccessError, match="has expired") as refused:
        RawNode(invitation, tmp_path)
    assert "lycia invite too-late" in refused.value.do


def test_an_invitation_that_was_never_given_out_is_not_known(unused: Invitation, tmp_path: Path):
    with pytest.raises(AccessError, match="not known here") as refused:
        RawNode(replace(unused, token="made up"), tmp_path)
    assert "ask the operator" in refused.value.do


def test_an_invitation_is_good_for_one_key_and_that_key_may_use_it_again(unused: Invitation, tmp_path: Path):
    for _ in range(2):  # the second time as after an answer that was lost
        RawNode(unused, tmp_path / "first").close()
    with pytest.raises(AccessError, match="was used before") as refused:
        RawNode(unused, tmp_path / "second")
    assert "revoke" in refused.value.do


def test_an_enrolment_that_somebody_else_has_signed_is_refused(
    unused: Invitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = Identity.at(tmp_path / "other.pem")
    with monkeypatch.context() as patched:
        patched.setattr(Identity, "public", other.public)
        with pytest.raises(AccessError, match="not signed by the key"):
            RawNode(unused, tmp_path / "node")
    assert still_good(unused, tmp_path / "honest")


def test_an_invitation_of_another_coordinator_at_that_address_is_refused_before_anything_is_sent(
    unused: Invitation, tmp_path: Path
):
    with pytest.raises(ConnectionFailed, match="is not the coordinator that invited this node") as refused:
        try_to_join(replace(unused, pin="ab" * 32), tmp_path / "node")
    assert "in between" in refused.value.do
    assert not (tmp_path / "node" / "membership.json").exists()
    assert still_good(unused, tmp_path / "honest")


def test_an_invitation_for_an_operator_makes_no_node(coordinator: Coordinator, tmp_path: Path):
    with pytest.raises(AccessError, match="is for an operator"):
        try_to_join(coordinator.invite("boss", role="operator"), tmp_path)
    with pytest.raises(AccessError, match="no role 'king'"):
        coordinator.invite("king", role="king")


# --------------------------------------------------------------------------------------------------------- app and data


@pytest.mark.parametrize(
    ("app", "data", "kind", "complaint"),
    [
        ("nowhere.py", "node-0", AppError, "there is no app file"),
        (APP, "nobody", DataError, "there is no data 'nobody'"),
        (APP, "strange", DataError, "3 columns"),
        ("raise SystemExit(3)", "node-0", AppError, "does not import: SystemExit"),
        (f"{POPULATED}lambda: 1 / 0)", "node-0", AppError, r"failed with ZeroDivisionError: .*app\.py, line \d+"),
        (f"{POPULATED}partial(int, 'x'))", "node-0", TrainingError, "cannot be loaded: ValueError: invalid literal"),
        ("import os; os._exit(7)", "node-0", TrainingError, "exit status 7"),
    ],
)
def test_what_is_wrong_with_app_or_data_costs_no_invitation(
    app: str | Path, data: str, kind: type[Exception], complaint: str, unused: Invitation, tmp_path: Path
):
    path = Path(app)
    if " " in str(app):
        path = tmp_path / "app.py"
        path.write_text(str(app))
    with pytest.raises(kind, match=complaint) as refused:
        try_to_join(unused, tmp_path / "node", path, data)
    assert refused.value.why
    assert refused.value.do
    assert still_good(unused, tmp_path / "honest")


# -------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def enrolled(unused: Invitation, tmp_path: Path) -> tuple[Invitation, Path]:
    """An invitation that was used, and the folder of its node."""
    home = tmp_path / "home"
    calls: list[str] = []

    def note(text: str) -> None:
        calls.append(text)
        if "enrolled" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join(unused, APP, "node-0", home, {}, note)
    assert (home / "membership.json").exists()
    return unused, home


def test_a_folder_that_joined_goes_on_and_belongs_to_its_node_and_coordinator_alone(
    enrolled: tuple[Invitation, Path], coordinator: Coordinator
):
    invitation, home = enrolled
    key = (home / "key.pem").read_bytes()

    def note(text: str) -> None:
        if "enrolled" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # the same invitation, used already, with the same folder: it goes on
        join(invitation, APP, "node-0", home, {}, note)
    assert (home / "key.pem").read_bytes() == key
    with pytest.raises(AccessError, match=f"belongs to the node '{invitation.name}'") as refused:
        try_to_join(coordinator.invite(f"other-{time.monotonic_ns()}"), home)
    assert "--home" in refused.value.do
    with pytest.raises(AccessError, match="of another coordinator") as refused:
        try_to_join(replace(invitation, pin="ab" * 32), home)
    assert "set up anew" in refused.value.why


@pytest.mark.parametrize(
    ("name", "complaint"), [("membership.json", "cannot be read"), ("key.pem", "does not hold an Ed25519 key")]
)
def test_a_damaged_folder_is_told_in_words(name: str, complaint: str, enrolled: tuple[Invitation, Path]):
    invitation, home = enrolled
    (home / name).write_bytes(b"{")
    with pytest.raises(AccessError, match=complaint):
        try_to_join(invitation, home)


def test_a_folder_is_for_one_process_at_a_time(enrolled: tuple[Invitation, Path], coordinator: Coordinator):
    invitation, home = enrolled
    hold = "import sys, pathlib; from lycia.deployment.holding import held\n"
    hold += "with held(pathlib.Path(sys.argv[1]), 'it'): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="a node runs already, in another process") as refused:
            try_to_join(invitation, home)
        assert "--home" in refused.value.do
        other.kill()  # whoever is killed lets go
        other.wait()
        with held(home, "it"):
            pass


def test_a_second_coordinator_on_one_folder_is_refused(coordinator: Coordinator):
    from lycia.deployment.coordinator.server import Settings, serve

    hold = "import sys, pathlib; from lycia.deployment.holding import held\n"
    hold += "with held(pathlib.Path(sys.argv[1]), 'it'): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(coordinator.home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="the coordinator runs already"):
            serve(Settings(coordinator.home, port=0), lambda _: None)
        other.kill()
