"""HTML pages in one file: they need no other file and no network.

The browser is told so too: a page's content security policy allows its own
script and style, by their hashes, and nothing else. Even a mistake in the
escaping of a name could neither run nor load anything.
"""

import base64
import hashlib
from html import escape

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #fafafa; --ink: #1f2328; --muted: #59636e;
  --line: #d5d9de; --head: #f3f3f3; --hover: #e8eef6; --accent: #0b6bcb;
  --warn: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --panel: #1b1f23; --ink: #e6e8ea; --muted: #9aa4ae;
    --line: #343a40; --head: #22272c; --hover: #27313c; --accent: #6cb2ff;
    --warn: #ff8a80;
  }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
       background: var(--page); }
.note { color: var(--muted); }
"""


def document(title, body, style="", script="", sources=""):
    """The page as text.

    Parameters
    ----------
    title : str
        Text of the title; escaped here.
    body : str
        HTML; whatever stands in it is escaped already.
    style, script : str
        CSS after the common `STYLE`, and JavaScript at the end.
    sources : str
        More directives of the content security policy, for media.

    Returns
    -------
    str

    Example
    -------
    >>> text = document("<b>", "<p>Hello</p>", script="console.log(1)")
    >>> "<title>&lt;b&gt;</title>" in text, "http:" in text
    (True, False)
    """
    style = STYLE + style
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}"
    if script:
        policy += f"; script-src {_hash(script)}"
        script = f"<script>{script}</script>"
    if sources:
        policy += f"; {sources}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body>{body}{script}</body></html>\n"
    )


def _hash(text):
    """How a policy names an inline script or style."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
