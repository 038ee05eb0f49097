"""HTML and SVG from values. Text is escaped unless it is markup already, so that forgetting to do so is harmless."""

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

_EMPTY_IN_HTML = frozenset({"meta", "link", "br", "hr", "wbr"})
_DRAWN = frozenset({"path", "line", "rect", "circle", "polyline", "polygon", "use", "stop"})
# What XML forbids, and what could make a name look like another one: controls, surrogates, changes of direction.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufffe\uffff\ud800-\udfff]"
)


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """`value` as it may stand in a page: markup as it is, all else escaped, with unseen characters shown as �."""
    return value if isinstance(value, Markup) else Markup(escape(_UNSEEN.sub("�", str(value))))


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. `class_` stands for class, `data_x` for data-x; None leaves an attribute out, True gives it no value.

    Example:
      >>> el("p", "1 < 2", el("br"), class_="note")
      '<p class="note">1 &lt; 2<br></p>'
    """
    opening = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _EMPTY_IN_HTML:
        return Markup(f"<{opening}>")
    if name in _DRAWN and not children:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{together(children)}</{name}>")


def together(parts: Iterable[object], between: str = "") -> Markup:
    """Several pieces as one."""
    return Markup(between.join(text(part) for part in parts if part is not None))


def data_script(data: Any, name: str) -> Markup:
    """`data` as JSON in a script element that nothing inside it can end."""
    said = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        said = said.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{text(name)}">{said}</script>')


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f' {name}=""'
    said = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else text(value)
    return f' {name}="{said}"'
