"""The templates, style sheet and script of the page, and the policy that lets a browser run nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.reporting.paper_values import data_name
from harness.reporting.tables import pretty, split

_SIGNS = {"theta": "θ", "alpha": "α", "sigma": "σ", "sigmadot": "σ̇", "Rtil": "R̃", "df/dx": "∂f/∂x"}


@cache
def environment() -> Environment:
    """Everything that a template prints is escaped, and a name that it does not know is an error."""
    loader = PackageLoader("harness.reporting")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"signs": signs, "lines": split, "data_name": data_name, "table_link": table_link, "figure_link": figure_link}
    jinja.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return jinja


def render(template: str, **values: object) -> Markup:
    """The HTML of a file in templates/."""
    return Markup(environment().get_template(template).render(**values))


def signs(text: str) -> str:
    """Text with mathematical signs for the names of letters."""
    return re.sub(rf"\b({'|'.join(_SIGNS)})(?=_|\b)", lambda match: _SIGNS[match[0]], pretty(text))


def table_link(title: str) -> str:
    """A table's title for the sidebar: the part before its first colon, such as "Table 1", without scale and records in brackets."""
    return signs(re.sub(r"( \([^()]*\))+$", "", title.partition(": ")[0])) + (": diversity" if title.endswith(": diversity") else "")


def figure_link(title: str, data: bool) -> str:
    """A figure's title for the sidebar: the paper's number in front, with the data set only if `data`."""
    text = re.sub(r"(.*) \((Figure \d+|Table \d+)\)(.*)", r"\2: \1\3", signs(title if data else title.partition(": ")[2] or title))
    return text[:1].upper() + text[1:]


@cache
def asset(name: str) -> Markup:
    """The text of page.css or page.js, which is inserted unescaped."""
    return Markup((resources.files("harness.reporting") / "templates" / name).read_text(encoding="utf-8"))


def content_policy() -> str:
    """The page's Content-Security-Policy: no network, only its own style sheet and script, named by their hashes, and embedded images."""
    return f"{_policy(asset('page.css'), asset('page.js'))} data:"


def served_policy() -> str:
    """That of the live pages, which also ask their own server for images and for their next content."""
    return f"{_policy(asset('page.css') + asset('live.css'), asset('live.js'))} data: 'self'; connect-src 'self'; frame-ancestors 'none'"


def _policy(style: str, script: str) -> str:
    """A policy whose sources of images are to be added at its end."""
    of_style, of_script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    sources = f"default-src 'none'; style-src 'sha256-{of_style}'; script-src 'sha256-{of_script}'"
    return f"{sources}; base-uri 'none'; form-action 'none'; img-src"
