"""The page of a report: one HTML file that needs no other file and no network."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import NamedTuple

MEDIA = {".png": "image/png", ".gif": "image/gif", ".wav": "audio/wav"}
"""Media types of files that the page shows or plays."""
LINKS = {".mid": "audio/midi", ".amc": "text/plain", ".asf": "text/plain"}
"""Media types of files that the page offers to save."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --page: #fff; --soft: #666; --line: #ccc; --shade: #f4f4f2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e2; --page: #17181a; --soft: #a2a2a0; --line: #45474a; --shade: #222426; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { line-height: 1.2; margin-bottom: .3rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2rem 0 .5rem; } a { color: inherit; } nav a { margin-right: 1rem; }
.title { font-weight: 600; margin: 2rem 0 .4rem; }
.caption, .facts { color: var(--soft); font-size: .875rem; margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid; border-bottom: 2px solid; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; padding-right: 1.2rem; } tbody th { font-weight: inherit; }
thead tr, .rule { border-bottom: 1px solid var(--line); } .rule { border-bottom: 0; border-top: 1px solid var(--line); }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figure { margin: 1rem 0; } .media { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: end; }
.media figure { margin: .5rem 0; max-width: 100%; } audio { max-width: 100%; }
pre { background: var(--shade); padding: .6rem .8rem; white-space: pre-wrap; font-size: .8rem; border-radius: 4px; }
code { overflow-wrap: anywhere; font-size: .9em; } pre code { font-size: inherit; }
summary { cursor: pointer; color: var(--soft); font-size: .875rem; }
"""


class Evidence(NamedTuple):
    """Data and commands behind a table or figure."""

    data: str
    manifest: str
    """Hash of the prepared data."""
    commands: list[str]


class Section(NamedTuple):
    heading: str
    parts: list[str]
    """Pieces of HTML, in the order of the page."""


def page(title: str, facts: Iterable[str], sections: Iterable[Section]) -> str:
    """Return the whole file. The content security policy in its head prevents all requests of a browser."""
    shown = [section for section in sections if section.parts]
    links = "".join(f'<a href="#{_anchor(each.heading)}">{escape(each.heading)}</a>' for each in shown)
    body = "\n".join(
        f'<section id="{_anchor(each.heading)}"><h2>{escape(each.heading)}</h2>\n{"".join(each.parts)}</section>'
        for each in shown
    )
    paragraphs = "".join(f'<p class="facts">{escape(fact)}</p>' for fact in facts)
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{paragraphs}<nav>{links}</nav>\n{body}\n</body></html>\n"
    )


def evidence(found: Evidence) -> str:
    """Return HTML with the data, their hash and the commands, which are expanded if they are few."""
    commands = escape("\n".join(found.commands))
    data = (
        f'<p class="facts">Data {escape(found.data)}, manifest <code>{escape(found.manifest or "unknown")}</code></p>'
    )
    opened = " open" if len(found.commands) <= 4 else ""
    count = f"{len(found.commands)} command{'s' * (len(found.commands) > 1)}"
    return f"{data}<details{opened}><summary>{count}</summary><pre><code>{commands}</code></pre></details>\n"


def picture(path: Path, caption: str) -> str:
    return (
        f'<figure><img src="{_data(path, MEDIA[path.suffix])}" alt="{escape(caption)}">'
        f'<figcaption class="caption">{escape(caption)}</figcaption></figure>\n'
    )


def media(paths: Iterable[Path]) -> str:
    """Return HTML with animations, sounds and links to save the other files, each with its name."""
    shown, saved = [], []
    for path in paths:
        if path.suffix == ".wav":
            player = f'<audio controls preload="metadata" src="{_data(path, MEDIA[path.suffix])}"></audio>'
            shown.append(f'<figure>{player}<figcaption class="caption">{escape(path.name)}</figcaption></figure>')
        elif path.suffix in MEDIA:
            shown.append(picture(path, path.name))
        else:
            name = escape(path.name)
            saved.append(f'<a download="{name}" href="{_data(path, LINKS[path.suffix])}">{name}</a>')
    files = f'<p class="facts">To save: {" · ".join(saved)}</p>' if saved else ""
    return (f'<div class="media">{"".join(shown)}</div>' if shown else "") + files


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>\n"


def listed(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>\n"


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _anchor(heading: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in heading.lower())
