"""What a data set is: where it comes from, under which licence, and how its files are told from damaged ones."""

from collections.abc import Callable
from dataclasses import dataclass

from lycia.data.schema import Schema


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
      name: what it is called in the folder of its data set; it may also lie there gzipped, as name + ".gz".
      size_bytes: of its content, before any such gzip.
      sha256: in hex, of `digested(content)`.
      addresses: where it is public, tried in this order; () for a file that must be brought by hand.
      digested: what of the content the digest is taken of, where nobody published one of the whole; None for all of it.
    """

    name: str
    size_bytes: int
    sha256: str
    addresses: tuple[str, ...] = ()
    digested: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
      name: its key in `DATASETS`.
      folder: where its files lie, below the folder that LYCIA_DATA names; "" if it has none.
      licence: as its publishers state it, or that they state none.
      source: whom to cite.
      nodes: who holds what by nature; "" where the data has no owners, and a partition must invent them.
      schema: what `check_data` holds its examples against.
      loaders: the functions of `lycia.data.datasets` that read it.
      files: of the first form that is there in full, each loader reads what it needs.
    """

    name: str
    title: str
    folder: str
    licence: str
    source: str
    nodes: str
    schema: Schema
    loaders: tuple[str, ...]
    files: tuple[File, ...] = ()

    def file(self, name: str) -> File:
        """The file of this name."""
        return next(file for file in self.files if file.name == name)
