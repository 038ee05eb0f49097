"""Keys, certificates and invitations: what comes back whole, and every kind of damage that is noticed."""

import json
import os
import shutil
import ssl
import stat
import subprocess
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.deployment import identity
from lycia.deployment.identity import Identity, Invitation, is_signed, write_private
from lycia.errors import AccessError, ConnectionFailed

INVITATION = Invitation("https://north.example:8443", "ab" * 32, "a-token", "north", "node")
HOUR_S, WEEK_S = 3600, 7 * 86400


def spelled(**fields: object) -> str:
    """An invitation of these fields, whole and with its checksum, as a forger would make it."""
    body = urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
    return f"lycia1.{body}.{identity._checksum(body)}"


# ---------------------------------------------------------------------------------------------------------- invitations


def test_an_invitation_comes_back_as_it_was():
    assert Invitation.from_text(INVITATION.to_text()) == INVITATION


def test_an_invitation_survives_being_wrapped_over_several_lines():
    text = INVITATION.to_text()
    assert Invitation.from_text(f"  {text[:40]}\n   {text[40:90]}\r\n{text[90:]}\n") == INVITATION


@given(st.data())
def test_a_change_of_any_letter_of_an_invitation_is_noticed(data: st.DataObject):
    text = INVITATION.to_text()
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda found: found != text[place]))
    with pytest.raises(AccessError, match="not an invitation"):
        Invitation.from_text(text[:place] + letter + text[place + 1 :])


@given(st.integers(0, len(INVITATION.to_text()) - 1))
def test_an_invitation_that_was_cut_off_is_noticed_and_says_what_to_do(length: int):
    with pytest.raises(AccessError, match="not an invitation") as refused:
        Invitation.from_text(INVITATION.to_text()[:length])
    assert "copy the whole line again" in refused.value.do


@given(st.text())
def test_no_text_is_worse_than_refused(text: str):
    with pytest.raises(AccessError, match="not an invitation"):
        Invitation.from_text(f"lycia1.{text}")


WHOLE = {"url": INVITATION.url, "pin": INVITATION.pin, "token": "t", "name": "north", "role": "node"}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../.ssh/authorized_keys"},
        {"name": "north\nsouth"},
        {"name": "north\n"},
        {"name": ""},
        {"url": "http://north.example"},
        {"url": "north.example:8443"},
        {"url": "https://north.example@elsewhere.example"},
        {"pin": "ä" * 64},
        {"pin": ""},
        {"token": 7},
        {"more": "fields"},
    ],
)
def test_an_invitation_that_says_what_none_says_is_refused(change: dict[str, object]):
    assert Invitation.from_text(spelled(**WHOLE)).name == "north"
    with pytest.raises(AccessError, match="not an invitation"):
        Invitation.from_text(spelled(**WHOLE | change))


@pytest.mark.parametrize("body", ["[]", '"text"', "null", "[" * 20_000, "{}"])
def test_an_invitation_of_other_json_is_refused(body: str):
    encoded = urlsafe_b64encode(body.encode()).decode().rstrip("=")
    with pytest.raises(AccessError, match="not an invitation"):
        Invitation.from_text(f"lycia1.{encoded}.{identity._checksum(encoded)}")


# ----------------------------------------------------------------------------------------------------------------- keys


def test_a_key_is_made_once_and_found_again(tmp_path: Path):
    path = tmp_path / "folder" / "key.pem"
    assert Identity.at(path).public == Identity.at(path).public


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_what_is_private_is_readable_by_its_owner_only_whatever_was_there_before(tmp_path: Path):
    path = tmp_path / "key.pem"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, b"new")
    Identity.at(tmp_path / "other.pem")
    assert [stat.S_IMODE(found.stat().st_mode) for found in sorted(tmp_path.iterdir())] == [0o600, 0o600]
    assert path.read_bytes() == b"new"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "key.pem"
    write_private(path, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            write_private(path, b"new")
    assert path.read_bytes() == b"old"
    write_private(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nMC4C", b"garbage \xff"])
def test_a_damaged_key_is_told_in_words(tmp_path: Path, content: bytes):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(AccessError, match="does not hold an Ed25519 key") as refused:
        Identity.at(path)
    assert "backup" in refused.value.do


def test_a_key_of_another_kind_is_told_in_words(tmp_path: Path):
    path = tmp_path / "key.pem"
    path.write_bytes(identity.make_certificate(["localhost"])[1])
    with pytest.raises(AccessError, match="does not hold an Ed25519 key"):
        Identity.at(path)


def test_a_signature_is_for_one_label_one_key_and_these_fields_alone(tmp_path: Path):
    mine, other = Identity.at(tmp_path / "mine"), Identity.at(tmp_path / "other")
    signature = mine.sign("label", b"ab", b"c")
    assert is_signed(mine.public, signature, "label", b"ab", b"c")
    assert not is_signed(mine.public, signature, "label", b"a", b"bc")
    assert not is_signed(mine.public, signature, "other label", b"ab", b"c")
    assert not is_signed(other.public, signature, "label", b"ab", b"c")


@pytest.mark.parametrize(
    ("public", "signature"), [("zz", "00"), ("", ""), ("00" * 31, "00" * 64), ("ff" * 32, "00" * 64)]
)
def test_what_is_no_key_or_no_signature_is_not_signed(public: str, signature: str):
    assert not is_signed(public, signature, "label")


# --------------------------------------------------------------------------------------------------------- certificates


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "coordinator.example"])
def test_this_python_accepts_the_certificates_that_are_made_here(host: str, tmp_path: Path):
    certificate, key = identity.make_certificate(identity.own_names(host))
    shake_hands(certificate, key, certificate.decode(), tmp_path)


def test_another_certificate_than_the_pinned_one_is_refused(tmp_path: Path):
    certificate, key = identity.make_certificate(["localhost"])
    pinned, _ = identity.make_certificate(["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(certificate, key, pinned.decode(), tmp_path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="asks openssl what it makes of other times")
@pytest.mark.parametrize(
    ("hours_off", "accepted"), [(-1, True), (1, True), (-24 * 6, True), (24 * 365, True), (-24 * 8, False)]
)
def test_a_certificate_is_accepted_by_a_node_whose_clock_is_off(hours_off: int, accepted: bool, tmp_path: Path):
    path = tmp_path / "certificate.pem"
    path.write_bytes(identity.make_certificate(["localhost"])[0])
    moment = str(int(time.time()) + hours_off * HOUR_S)
    asked = ["openssl", "verify", "-attime", moment, "-CAfile", str(path), str(path)]
    said = subprocess.run(asked, capture_output=True, check=False, text=True)
    assert (said.returncode == 0) == accepted, said.stdout + said.stderr


def test_nobody_at_an_address_is_told_in_words():
    with pytest.raises(ConnectionFailed, match=r"no coordinator answers at https://127\.0\.0\.1:1") as refused:
        identity.fetch_certificate("https://127.0.0.1:1", INVITATION.pin)
    assert "lycia serve" in refused.value.do


def shake_hands(certificate: bytes, key: bytes, trusted: str, folder: Path) -> None:
    """A TLS handshake in memory, as a node makes it with its coordinator."""
    (folder / "both.pem").write_bytes(key + certificate)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(folder / "both.pem")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    node = identity.client_context(trusted).wrap_bio(down, up, server_hostname="wherever.example")
    coordinator = served.wrap_bio(up, down, server_side=True)
    waiting = [node, coordinator]
    for side in [*waiting] * 4:
        if side in waiting:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
