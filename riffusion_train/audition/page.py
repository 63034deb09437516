"""The audition page as one HTML file: its style, its script and its data are inside, so that it opens from disk.

A browser gives a page from disk no way to read other files, and loads no ES modules: hence the data in the page, and classic
scripts. A content security policy names the style and the script by their hashes: no other script can run.
"""

import base64
import hashlib
import html
import json
import string
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

SCRIPTS = ("elements.js", "ratings.js", "player.js", "grid.js", "details.js", "link.js", "main.js")
"""The parts of the page's script, in order; they share one scope."""


def page_html(data: Mapping[str, Any]) -> str:
    """Return the page for the data of a site; all texts in it are data, and none becomes markup."""
    static = files("riffusion_train.audition") / "static"

    def read(name: str) -> str:
        return (static / name).read_text(encoding="utf-8")

    style = read("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(read(name) for name in SCRIPTS) + "})();\n"
    return string.Template(read("page.html")).substitute(
        title=html.escape(str(data["title"])),
        policy=_policy(style, script),
        style=style,
        script=script,
        data=_as_data(data),
    )


def _policy(style: str, script: str) -> str:
    """Return the page's content security policy: its own style and script, pictures and sound beside it, nothing else."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' data:; media-src 'self'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _as_data(data: Mapping[str, Any]) -> str:
    """Return JSON in which nothing can end the element that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
