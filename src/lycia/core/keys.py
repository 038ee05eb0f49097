"""Randomness as a value: a key is a place, and each place has one stream.

`Key(seed).at(round, node, "dropout").generator()` gives the same numbers on every machine and in every world,
whatever ran before it. Keys come from the plan's seed; secrets (noise, masks) never do: those take an `Entropy`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Key:
    """The name of one random stream.

    Guarantees:
      - Different paths give different streams, also where their texts run together: each step of the path is
        tagged with its type and prefixed with its length, so ("ab", "c") is not ("a", "bc") and 1 is not "1".
      - The stream depends on nothing else: no global generator is read or written.
    Example:
      >>> Key(1).at("a", "bc").generator().random() == Key(1).at("ab", "c").generator().random()
      False
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def at(self, *steps: str | int) -> "Key":
        """The key further down the path."""
        return Key(self.seed, (*self.path, *steps))

    def digest(self) -> bytes:
        """32 bytes that stand for this place.

        Source: SHA-256 over length-prefixed, type-tagged steps.
        """
        total = hashlib.sha256()
        for step in (self.seed, *self.path):
            tag, text = (b"s", step) if isinstance(step, str) else (b"i", str(int(step)))
            total.update(tag + len(text.encode()).to_bytes(8, "big") + text.encode())
        return total.digest()

    def generator(self) -> np.random.Generator:
        """The generator that belongs to this place, at its beginning.

        Source: Philox4x64-10, Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
        """
        return np.random.Generator(np.random.Philox(key=int.from_bytes(self.digest()[:16], "big")))


def generators(key: Key, nodes: Sequence[str], purpose: str) -> list[np.random.Generator]:
    """One generator for each node of a block, the same that each node would make for itself."""
    return [key.at(node, purpose).generator() for node in nodes]


def from_entropy(secret: bytes, purpose: str) -> np.random.Generator:
    """A generator drawn from bytes that nobody else knows; for cohorts, not for noise or masks."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(derived(secret, purpose)[:16], "big")))


def derived(secret: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose, which say nothing of those for another."""
    return hashlib.sha256(len(purpose.encode()).to_bytes(8, "big") + purpose.encode() + secret).digest()
