"""CSV and TSV files, plain or compressed, read with the standard library: as fast as its parser, a block at a time."""

import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from lycia.data.cells import Numbers, Reading, numbers_of
from lycia.errors import DataError

_BLOCK = 20_000  # rows: enough for speed, little in memory


@dataclass(frozen=True)
class DelimitedFile:
    """A table in a text file, with names in its first row.

    The columns of a .csv file are told apart by a comma, a semicolon or a tab, whichever the first row has most of.
    """

    path: Path
    headers: tuple[str, ...]
    delimiter: str

    @classmethod
    def at(cls, path: Path) -> "DelimitedFile":
        """The file, with its first row read.

        Raises: DataError, if it cannot be read, or is empty.
        """
        with _in_words(path), _opened(path) as file:
            first = file.readline()
            delimiter = "\t" if ".tsv" in path.suffixes else max(",;\t", key=first.count)
            file.seek(0)
            headers = next(csv.reader(file, delimiter=delimiter, strict=True), [])
        if not headers:
            raise DataError(
                f"{path} is empty.", why="its first row names the columns.", do="write the table anew, with its header."
            )
        return cls(path, tuple(headers), delimiter)

    @property
    def called(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def counted(self) -> str:
        """As a spreadsheet does."""
        return "as a spreadsheet does, with the header as row 1"

    def array_columns(self) -> Collection[int]:
        """None: text has no arrays."""
        return ()

    def read(self, numbers: Collection[int], texts: Collection[int], arrays: Collection[int]) -> Reading:
        """The columns at these places, read in one pass.

        Raises: DataError, if the file is cut off, or a row has more or fewer cells than the header.
        """
        taken = tuple(numbers)
        found: dict[int, list[Numbers]] = {place: [] for place in taken}
        words: dict[int, list[str]] = {place: [] for place in texts}
        rows = [np.zeros(0, dtype=np.int64)]
        with _in_words(self.path), _opened(self.path) as file:
            for block in self._blocks(file, taken, tuple(texts)):
                rows.append(block.rows)
                for place, column in block.numbers.items():
                    found[place].append(column)
                for place, cells in block.texts.items():
                    words[place].extend(cells)
        return Reading(
            np.concatenate(rows),
            {place: _joined(columns) for place, columns in found.items()},
            {place: np.array(cells, dtype=object) for place, cells in words.items()},
        )

    def _blocks(self, file: IO[str], numbers: tuple[int, ...], texts: tuple[int, ...]) -> Iterator["_Block"]:
        next(csv.reader(file, delimiter=self.delimiter, strict=True))
        first = 2
        while lines := list(islice(file, _BLOCK)):
            quoted = any('"' in line for line in lines)
            block = None if quoted or texts else self._plain_block(lines, first, numbers)
            if block is not None:
                yield block
                first += len(lines)
                continue
            # A quoted cell may hold line breaks, also at the end of a block: from there on the parser reads by itself.
            reader = csv.reader(chain(lines, file) if quoted else lines, delimiter=self.delimiter, strict=True)
            while records := list(islice(reader, _BLOCK)):
                yield self._block(records, first, numbers, texts)
                first += len(records)

    def _plain_block(self, lines: list[str], first: int, numbers: tuple[int, ...]) -> "_Block | None":
        """Lines without quotes, by NumPy's parser, several times as fast; None where it finds anything else."""
        cells = len(self.headers) - 1
        if not numbers or any(line.count(self.delimiter) != cells for line in lines):
            return None
        try:
            values = np.loadtxt(lines, delimiter=self.delimiter, usecols=numbers, comments=None, ndmin=2)
        except ValueError:
            return None
        if len(values) < len(lines) or not np.isfinite(values).all():
            return None
        columns = zip(numbers, values.T, strict=True)
        return _Block(
            np.arange(first, first + len(lines)), {place: Numbers(column.copy()) for place, column in columns}, {}
        )

    def _block(
        self, records: list[list[str]], first: int, numbers: tuple[int, ...], texts: tuple[int, ...]
    ) -> "_Block":
        rows, width = np.arange(first, first + len(records)), len(self.headers)
        widths = np.fromiter(map(len, records), np.int64, len(records))
        wrong = np.flatnonzero((widths != width) & (widths > 0))
        if len(wrong):
            place = int(wrong[0])
            raise DataError(
                f"{self.path} has {widths[place]} cells in row {rows[place]}, and {width} in its header.",
                why="each row has a cell for each column. The last one has fewer where a file was cut off, and one has "
                "more where a cell with a delimiter in it does not stand in quotes.",
                do="write the file again from its source.",
            )
        columns = (
            list(zip(*(record for record in records if record), strict=True)) or [()] * width
        )  # without blank lines
        return _Block(
            rows[widths > 0],
            {place: numbers_of(columns[place]) for place in numbers},
            {place: columns[place] for place in texts},
        )


class _Block(NamedTuple):
    """Some rows."""

    rows: np.ndarray
    numbers: dict[int, Numbers]
    texts: dict[int, tuple[str, ...]]


def _joined(blocks: Sequence[Numbers]) -> Numbers:
    begins = np.cumsum([0, *(len(block.values) for block in blocks)])[:-1].tolist()
    return Numbers(
        np.concatenate([np.zeros(0), *(block.values for block in blocks)]),
        *(
            np.concatenate(
                [np.zeros(0, dtype=np.int64), *(at + begin for at, begin in zip(found, begins, strict=True))]
            )
            for found in ([block.empty for block in blocks], [block.strange for block in blocks])
        ),
    )


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with ExitStack() as opened:
        raw = opened.enter_context(path.open("rb"))
        plain = opened.enter_context(gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        yield opened.enter_context(io.TextIOWrapper(plain, encoding="utf-8-sig", newline=""))


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is not text in UTF-8.",
            why="letters beyond ASCII have several encodings, and a wrong guess would change names and labels.",
            do="save it as CSV in UTF-8; a compressed file is called .csv.gz.",
        ) from None
    except (EOFError, zlib.error, csv.Error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} cannot be read: {error}.",
            why="it was cut off or damaged, or its quotes do not match.",
            do="copy or write the file again from its source.",
        ) from None
