"""The frame of a page: one HTML file with the house's style, sign and script, and the boxes for its content."""

import base64
import hashlib
import math
from collections.abc import Sequence

from lycia.reports.markup import Markup, el
from lycia.reports.styles import page_style, resource


def document(title: str, *content: object) -> str:
    """A whole page.

    Guarantees:
      - One file; it refers to nothing outside, and its policy forbids every script but its own.
    """
    script, style = resource("page.js"), page_style()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", Markup(style)),
    )
    body = el("body", *content, el("script", Markup(script)))
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def brand(words: str) -> Markup:
    """The line at the top: the sign of the house, many around one, and what the page is."""
    places = [
        (13 + 9.2 * math.cos(angle), 13 + 9.2 * math.sin(angle))
        for angle in (math.tau * k / 6 + 0.52 for k in range(6))
    ]
    spokes = (el("line", class_="spoke", x1=13, y1=13, x2=x, y2=y) for x, y in places)
    dots = (el("circle", class_="node-dot", cx=x, cy=y, r=2.6) for x, y in places)
    middle = el("circle", class_="middle", cx=13, cy=13, r=3.6)
    sign = el(
        "svg", *spokes, *dots, middle, xmlns="http://www.w3.org/2000/svg", width=26, height=26, viewBox="0 0 26 26",
        aria_hidden="true",
    )  # fmt: skip
    return el("p", sign, el("span", words), class_="brand")


def tile(name: str, value: str, *remarks: str | Markup) -> Markup:
    """A figure to see at once."""
    small = (el("div", remark, class_="small") for remark in remarks if remark)
    return el("div", el("dt", name), el("dd", el("div", value, class_="big"), *small), class_="tile")


def section(heading: str, said: Sequence[str], *parts: Markup | None) -> Markup:
    """A part of the page, with what there is to say before what there is to see."""
    return el(
        "section", el("h2", heading), *(el("p", sentence) for sentence in said), *(part for part in parts if part)
    )


def panels(shown: Sequence[Markup | None]) -> Markup | None:
    """Boxes side by side where there is room."""
    there = [panel for panel in shown if panel]
    return el("div", *there, class_="panels") if there else None


def panel(heading: str, *body: object, note: str = "", wide: bool = False) -> Markup:
    """A box for one figure or table."""
    caption = el("figcaption", el("h3", heading), el("p", note) if note else None)
    return el("figure", caption, *body, class_="panel wide" if wide else "panel")
