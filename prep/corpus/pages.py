"""The content of a WARC record -> a document. Imported where a WARC is read: it needs the packages of the extra `warc`."""

from collections.abc import Mapping, Sequence

from resiliparse.extract.html2text import extract_plain_text

from prep.corpus.charset import decode_page
from prep.corpus.documents import MAX_DOCUMENT_BYTES, Document, Fault, too_long
from prep.corpus.http import decode_body, parse_response

_HTML = ("text/html", "application/xhtml+xml")
_OK = 200


def page_of(position: int, content: bytes, headers: Mapping[str, Sequence[str]]) -> Document | Fault:
    """The text of a record of text, or the main content of one of HTML, as a document at `position`.

    A page of another media type, without success or without text is left out. Never raises: a page must not stop a crawl
    with an error that nobody can act on.
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
            text = extract_plain_text(text, main_content=True)
        except Exception as error:  # a parser in C, and pages of strangers
            return Fault(position, "broken_http", len(content), f"its HTML cannot be parsed: {error}")
    if not text.strip():
        return Fault(position, "not_wanted", len(content))
    return Document(position, text, len(text.encode()))


def _last(headers: Mapping[str, Sequence[str]], name: str) -> str:
    values = headers.get(name)
    return values[-1].lower() if values else ""


def _charset(parameters: str) -> str:
    return parameters.partition("charset=")[2].partition(";")[0].strip(" \"'")
