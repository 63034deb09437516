"""HTML pages that open from disk: style, script and data in one file, under a content security policy that names them."""

import base64
import hashlib
import html
import json
import string
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any


def static_page(package: str, scripts: Sequence[str], title: str, data: Mapping[str, Any]) -> str:
    """Return a page made of the files in a package's folder `static`; all texts in it are data, and none becomes markup.

    Args:
        package: The package; its folder `static` holds `page.html`, `page.css` and the scripts.
        scripts: The parts of the page's script, in order; they share one scope, since browsers load no modules from disk.
        title: The page's title.
        data: What the script reads from the page, as JSON.
    """
    static = files(package) / "static"

    def read(name: str) -> str:
        return (static / name).read_text(encoding="utf-8")

    style = read("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(read(name) for name in scripts) + "})();\n"
    return string.Template(read("page.html")).substitute(
        title=html.escape(title), policy=content_policy(style, script), style=style, script=script, data=_as_data(data)
    )


def content_policy(style: str, script: str) -> str:
    """Return the page's content security policy: its own style and script, images and sound beside it, nothing else."""
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
