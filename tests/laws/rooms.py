"""Every part that the rooms offer, found by looking, so that a new one is held to the laws without being named here."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from lycia.core.parts import ClientRule, Selector, Stage

ROOMS = ("algorithms", "aggregators", "selection", "compression", "privacy")
EXAMPLES: dict[str, dict[str, Any]] = {}
"""Class name → arguments, for a part whose required fields cannot be guessed from their types."""


def selectors() -> list[Selector]:
    """One of each."""
    return [part for part in _parts() if isinstance(part, Selector)]


def client_rules() -> list[ClientRule]:
    """One of each."""
    return [part for part in _parts() if isinstance(part, ClientRule)]


def stages() -> list[Stage]:
    """One of each."""
    return [part for part in _parts() if isinstance(part, Stage)]


def aggregators() -> list[Any]:
    """One of each."""
    return [part for part in _parts() if all(hasattr(part, name) for name in ("weights", "divisor", "equal_shares"))]


def server_optimizers() -> list[Any]:
    """One of each."""
    return [part for part in _parts() if all(hasattr(part, name) for name in ("step", "slots"))]


def _parts() -> Iterator[Any]:
    for kind in dict.fromkeys(_classes()):
        yield kind(**_arguments(kind))


def _classes() -> Iterator[type]:
    for room in ROOMS:
        for module in _modules(f"lycia.{room}"):
            for name, value in sorted(vars(module).items()):
                public = not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
                if public and isinstance(value, type) and is_dataclass(value) and _is_part(value):
                    yield value


def _is_part(kind: type) -> bool:
    offers = {"weights", "divisor"}, {"step", "slots"}
    return issubclass(kind, (Selector, ClientRule, Stage)) or any(names <= set(dir(kind)) for names in offers)


def _modules(name: str) -> Iterator[Any]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("lycia"):
            raise
        return  # a room that has not been built
    yield module
    for inner in pkgutil.iter_modules(getattr(module, "__path__", [])):
        yield from _modules(f"{name}.{inner.name}")


def _arguments(kind: type) -> dict[str, Any]:
    if kind.__name__ in EXAMPLES:
        return EXAMPLES[kind.__name__]
    guesses = {int: 3, float: 0.25, bool: False, "int": 3, "float": 0.25, "bool": False}
    required = [field for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
    unknown = [field.name for field in required if field.type not in guesses]
    assert not unknown, (
        f"say in EXAMPLES what {kind.__name__}({', '.join(unknown)}) is, so that the laws can be checked"
    )
    return {field.name: guesses[field.type] for field in required}
