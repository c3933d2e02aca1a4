"""The content of a WARC record -> a document. Imported where a WARC is read: it needs the packages of the extra `warc`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from prep.corpus.charset import decode_page
from prep.corpus.documents import MAX_DOCUMENT_BYTES, Document, Fault, too_long
from prep.corpus.http import decode_body, parse_response

_HTML = ("text/html", "application/xhtml+xml")
_OK = 200
_MAX_DEPTH = 1000  # browsers stop at 512; the extractor's time grows with the square of it: 640 s at 100,000


def page_of(position: int, content: bytes, headers: Mapping[str, Sequence[str]]) -> Document | Fault:
    """The text of a record of text, or the main content of one of HTML, as a document at `position`.

    A page of another media type, without success or without text is left out. Never raises: a page must not stop a crawl
    with an error that no user can act on.
    """
    media_type = _last(headers, "content-type")
    if media_type.startswith("application/http"):
        status, headers, content = parse_response(content)
        media_type = _last(headers, "content-type")
        if status != _OK:
            return Fault(position, "not_wanted", len(content))
    kind, _, parameters = media_type.partition(";")
    kind = kind.strip()
    if kind != "text/plain" and kind not in _HTML:
        return Fault(position, "not_wanted", len(content))
    try:
        body = decode_body(content, headers)
    except ValueError as error:
        return Fault(position, "broken_http", len(content), str(error))
    if len(body) > MAX_DOCUMENT_BYTES:
        return too_long(position, len(body))
    text = decode_page(body, _charset(parameters), kind in _HTML)
    if kind in _HTML:
        try:
            text = _main_content(text)
        except Exception as error:  # a parser in C, and pages of strangers
            return Fault(position, "broken_http", len(content), f"its HTML cannot be read: {error}")
    if not text.strip():
        return Fault(position, "not_wanted", len(content))
    return Document(position, text, len(text.encode()))


def _main_content(html: str) -> str:
    """The main content of a page. Raises ValueError for one that is nested absurdly deep."""
    if _may_be_deep(html) and _is_deep(HTMLTree.parse(html)):
        raise ValueError(f"its elements are nested deeper than {_MAX_DEPTH}")
    return str(extract_plain_text(html, main_content=True))


def _may_be_deep(html: str) -> bool:
    """Whether more than _MAX_DEPTH tags are open somewhere, if none were closed by another's end. Cheap, unlike the tree."""
    data = np.frombuffer(html.encode(), np.uint8)
    tags = np.flatnonzero(data[:-1] == ord("<"))
    if len(tags) <= _MAX_DEPTH:
        return False
    following = data[tags + 1]
    steps = np.where(following == ord("/"), -1, (following | 0x20 >= ord("a")) & (following | 0x20 <= ord("z")))
    return bool(np.cumsum(steps).max() - min(0, int(np.cumsum(steps).min())) > _MAX_DEPTH)


def _is_deep(tree: Any) -> bool:
    node: Any = tree.document
    depth = 0
    while node is not None and depth <= _MAX_DEPTH:
        if node.first_child is not None:
            node, depth = node.first_child, depth + 1
            continue
        while node is not None and node.next is None:
            node, depth = node.parent, depth - 1
        node = node.next if node is not None else None
    return depth > _MAX_DEPTH


def _last(headers: Mapping[str, Sequence[str]], name: str) -> str:
    values = headers.get(name)
    return values[-1].lower() if values else ""


def _charset(parameters: str) -> str:
    return parameters.partition("charset=")[2].partition(";")[0].strip(" \"'")
