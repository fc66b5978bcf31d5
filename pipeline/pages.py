"""One page of HTML with all that it shows inside: no script, no file beside it, nothing fetched.

What it is given is text, whoever wrote it, and stays text: names are shown and not obeyed.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

LONGEST = 300  # letters of what a document says
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; }
.wide { overflow-x: auto; }
th, td { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.words td { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; vertical-align: top; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page; its parts are what the functions below give."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def text(words: str) -> str:
    r"""Words as a page shows them; what no eye can see, and could turn others around, is written out.

    >>> text("a<b>\u202e")
    'a&lt;b&gt;\\u202e'
    """
    seen = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in words)
    return escape(seen)


def cut(words: str) -> str:
    """Words as they are, or their beginning: what a document says may be of any length."""
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def heading(words: str) -> str:
    """Of a section."""
    return f"<h2>{text(words)}</h2>"


def paragraph(words: str) -> str:
    """Text of its own."""
    return f"<p>{text(words)}</p>"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the others."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def glossary(found: Mapping[str, str]) -> str:
    """Names, and what each is in words, of any length."""
    body = "\n".join(f"<tr><td>{text(name)}</td><td>{text(words)}</td></tr>" for name, words in found.items())
    return f'<table class="words">\n{body}\n</table>'


def picture(png: bytes, words: str) -> str:
    """A picture, and what it shows for who cannot see it."""
    return f'<img alt="{text(words)}" src="data:image/png;base64,{b64encode(png).decode()}">'
