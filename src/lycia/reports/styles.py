"""The style of what we draw: one palette, light and dark, for a page of its own and for a card on another page."""

import re
from collections.abc import Mapping
from importlib import resources

_LIGHT: Mapping[str, str] = {
    "paper": "#f7f6f2", "card": "#ffffff", "ink": "#18212b", "soft": "#5b6670", "rule": "#dcdad2", "grid": "#e8e6df",
    "blue": "#0a6aa8", "sky": "#6db6e3", "orange": "#b85c00", "amber": "#e0a100", "green": "#00805a", "red": "#c4341b",
    "violet": "#7a4bb0", "grey": "#98a1a8", "wash": "rgba(10, 106, 168, .17)", "mist": "rgba(10, 106, 168, .08)",
    "tip": "#18212b", "tip-ink": "#ffffff",
}  # fmt: skip
_DARK: Mapping[str, str] = {
    "paper": "#12161b", "card": "#1a2027", "ink": "#e8ebee", "soft": "#9ba6b0", "rule": "#2d353e", "grid": "#262d35",
    "blue": "#58b0ee", "sky": "#2f7fb5", "orange": "#f09a4a", "amber": "#f2c14b", "green": "#45c79a", "red": "#ff7a5c",
    "violet": "#c3a0f0", "grey": "#727d87", "wash": "rgba(88, 176, 238, .24)", "mist": "rgba(88, 176, 238, .11)",
    "tip": "#e8ebee", "tip-ink": "#12161b",
}  # fmt: skip
_PRINTED = {**_LIGHT, "paper": "#ffffff", "ink": "#000000", "soft": "#444444", "rule": "#c8c8c8", "grid": "#e2e2e2"}
_LETTERS: Mapping[str, str] = {
    "sans": 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", '
    '"Liberation Sans", Arial, sans-serif',
    "mono": 'ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", '
    "monospace",
}
# How notebooks say what their own theme is, whatever the reader's system prefers: Jupyter, VS Code, Colab and others.
_SAID_LIGHT = ('body[data-jp-theme-light="true"]', "body.vscode-light", 'html[theme="light"]')
_SAID_DARK = ('body[data-jp-theme-light="false"]', "body.vscode-dark", 'html[theme="dark"]')


def page_style() -> str:
    """The style of a page that has its document for itself."""
    return "\n".join((
        _rule(":root", {**_LETTERS, **_LIGHT}, "color-scheme: light dark;"),
        f"@media (prefers-color-scheme: dark) {{ {_rule(':root', _DARK)} }}",
        f"@media print {{ {_rule(':root', _PRINTED)} }}",
        resource("chart.css"),
        resource("page.css"),
    ))  # fmt: skip


def card_style(class_: str) -> str:
    """The style of elements of this class only, light or dark as the document around them is."""
    root = f".{class_}"
    return "\n".join((
        _rule(root, {**_LETTERS, **_LIGHT}),
        f"@media (prefers-color-scheme: dark) {{ {_rule(root, _DARK)} }}",
        _rule(_within(_SAID_LIGHT, root), _LIGHT),
        _rule(_within(_SAID_DARK, root), _DARK),
        _scoped(resource("chart.css"), root),
        resource("card.css"),
    ))  # fmt: skip


def resource(name: str) -> str:
    """A file that comes with this package."""
    return resources.files("lycia.reports").joinpath(name).read_text("utf-8")


def _rule(selector: str, variables: Mapping[str, str], more: str = "") -> str:
    return f"{selector} {{ {''.join(f'--{name}: {value}; ' for name, value in variables.items())}{more} }}"


def _within(places: tuple[str, ...], root: str) -> str:
    return ", ".join(f"{place} {root}" for place in places)


def _scoped(style: str, root: str) -> str:
    """Each rule of a sheet without at-rules, for what is inside `root` only."""
    return re.sub(
        r"^[^{]+", lambda found: ", ".join(f"{root} {one.strip()}" for one in found[0].split(",")) + " ", style,
        flags=re.MULTILINE,
    )  # fmt: skip
