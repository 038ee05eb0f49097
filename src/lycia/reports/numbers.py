"""Numbers as people write them."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

_MINUS = "−"


def figure(value: float) -> str:
    """A metric: three decimals, or as many digits as say something.

    Example:
      >>> [figure(value) for value in (0.96123, -0.5, 0, 12.3456, 12345.6, 0.0000123)]
      ['0.961', '−0.500', '0', '12.35', '12,346', '1.2e−05']
    """
    size = abs(value)
    if not math.isfinite(value):
        return "–"
    if value == 0:
        said = "0"
    elif size < 0.001 or size >= 1e7:
        said = f"{value:.1e}"
    elif size < 10:
        said = f"{value:.3f}"
    elif size < 1000:
        said = f"{value:.2f}"
    else:
        said = f"{value:,.0f}"
    return said.replace("-", _MINUS)


def change(value: float) -> str:
    """A difference, with its sign.

    Example:
      >>> change(0.31), change(-0.02)
      ('+0.310', '−0.020')
    """
    return ("+" if value > 0 else "") + figure(value)


def count(number: float, one: str = "", many: str = "") -> str:
    """How many.

    Example:
      >>> count(1, "node"), count(1234, "node"), count(2, "retry", "retries")
      ('1 node', '1,234 nodes', '2 retries')
    """
    noun = one if number == 1 else many or f"{one}s"
    said = f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
    return f"{said} {noun}" if one else said


def share(part: float, whole: float) -> str:
    """A part as a percentage; 0 % and 100 % mean none and all.

    Example:
      >>> share(999, 1000), share(1, 1000), share(0, 0)
      ('99.9 %', '0.1 %', '–')
    """
    if not whole:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if 0 < percent < 1 or 99 < percent < 100 else f"{percent:.0f} %"


def size(amount: float) -> str:
    """Bytes.

    Example:
      >>> size(812), size(1_234_567), size(15_300)
      ('812 B', '1.2 MB', '15 kB')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    place = min(int(math.log10(amount) // 3), len(units) - 1) if amount >= 1 else 0
    value = amount / 1000**place
    if round(value) >= 1000 and place < len(units) - 1:
        value, place = value / 1000, place + 1
    return f"{value:.1f} {units[place]}" if place and value < 9.95 else f"{value:.0f} {units[place]}"


def duration(seconds: float) -> str:
    """A stretch of time.

    Example:
      >>> [duration(value) for value in (0, 0.0034, 3.44, 75, 3720, 200_000)]
      ['0 s', '3.4 ms', '3.4 s', '1 min 15 s', '1 h 2 min', '2 d 7 h']
    """
    if seconds < 0.9995:
        value = 1000 * max(seconds, 0.0)
        return "0 s" if value == 0 else f"{value:.1f} ms" if value < 9.95 else f"{value:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, unit, lower in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


def moment(iso: str) -> str:
    """A point in time, to the minute; as it stands where it is no ISO text.

    Example:
      >>> moment("2026-03-01T12:30:05+00:00")
      '2026-03-01 12:30 UTC'
    """
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = (at.tzname() or "").removesuffix("+00:00")
    return f"{at:%Y-%m-%d %H:%M} {zone}".strip()


def elapsed_s(started: str, ended: str) -> float | None:
    """Seconds between two ISO texts; None if they do not say."""
    try:
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
    except (ValueError, TypeError):
        return None


def listing(names: Sequence[str], most: int = 5) -> str:
    """Names in a sentence.

    Example:
      >>> listing(["a", "b", "c"]), listing(["a", "b", "c", "d"], most=2)
      ('a, b and c', 'a, b and 2 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {count(len(names) - most)} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def ranges(numbers: Iterable[int], most: int = 8) -> str:
    """Whole numbers, those that follow each other drawn together.

    Example:
      >>> ranges([1, 2, 3, 7, 9, 10])
      '1–3, 7, 9, 10'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = [
        part for run in runs for part in ([f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(number) for number in run])
    ]
    return ", ".join(said[:most]) + (", …" if len(said) > most else "")


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of them lie, linear between neighbours. `values` has at least one.

    Example:
      >>> quantile([1.0, 2.0, 4.0], 0.75)
      3.0
    """
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
