"""What names a file: its bytes alone, however they came, and each of its parts by itself."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.storage import parts
from lycia.storage.parts import Hasher, digest_of, digest_of_pieces, digests

SIZE = 16  # of a part, on this page
contents = st.binary(max_size=5 * SIZE) | st.integers(0, 6).map(lambda count: b"x" * (count * SIZE))


@pytest.fixture(autouse=True, scope="module")
def _small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "PART_BYTES", SIZE)
        yield


def cut(content: bytes, at: list[int]) -> list[bytes]:
    """The content in pieces; some of them may be empty."""
    return [
        content[start:stop]
        for start, stop in pairwise([0, *sorted(min(cut, len(content)) for cut in at), len(content)])
    ]


@given(content=contents, at=st.lists(st.integers(0, 5 * SIZE), max_size=8))
def test_a_file_has_one_digest_however_it_came(content: bytes, at: list[int]):
    hasher, pieces = Hasher(), cut(content, at)
    for piece in pieces:
        hasher.update(memoryview(piece))
    assert hasher.size_bytes == len(content)
    assert hasher.parts == digests(content)
    assert hasher.digest == digest_of(len(content), digests(content)) == digest_of_pieces(pieces)


@given(content=contents)
def test_parts_cover_a_file_once_and_each_is_named_by_its_own_bytes(content: bytes):
    places = [parts.place(len(content), number) for number in range(parts.count(len(content)))]
    assert b"".join(content[place] for place in places) == content
    assert all(len(content[place]) == SIZE for place in places[:-1])
    assert len(places) == max(1, -(-len(content) // SIZE))
    assert digests(content) == tuple(hashlib.sha256(content[place]).hexdigest() for place in places)


@given(content=st.binary(max_size=SIZE))
def test_a_file_of_one_part_is_named_as_everybody_names_it(content: bytes):
    assert digest_of(len(content), digests(content)) == hashlib.sha256(content).hexdigest()


@given(content=st.binary(min_size=1, max_size=5 * SIZE), place=st.integers(0), flip=st.integers(1, 255))
def test_a_byte_that_changes_changes_the_digest_of_its_part_and_of_the_file_and_no_other(
    content: bytes, place: int, flip: int
):
    place %= len(content)
    changed = content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
    before, after = digests(content), digests(changed)
    differing = [number for number in range(len(before)) if before[number] != after[number]]
    assert differing == [place // SIZE]
    assert digest_of(len(content), before) != digest_of(len(changed), after)


@given(content=st.binary(min_size=SIZE + 1, max_size=4 * SIZE))
def test_a_list_of_parts_is_no_file_that_has_its_digest(content: bytes):
    found = digests(content)
    listed = bytes.fromhex("".join(found))
    assert digest_of(len(content), found) != hashlib.sha256(listed).hexdigest()
    assert digest_of(len(content), found) != digest_of(len(content) + 1, found)
    assert digest_of(len(content), found) != hashlib.sha256(content).hexdigest()
