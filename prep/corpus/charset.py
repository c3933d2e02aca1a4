"""Bytes of a web page -> text, as the WHATWG Encoding and HTML standards decode them.

A byte order mark decides first, then the label of the HTTP header, then the label in the page, then a guess. Bytes that
cannot be decoded become U+FFFD: where a label was given there is no second guess.
"""

import codecs
import re
from collections.abc import Sequence

import webencodings
from resiliparse.parse.encoding import detect_encoding

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_BE, "utf-16be"), (codecs.BOM_UTF16_LE, "utf-16le"))
_HEAD_BYTES = 1 << 16  # of a page, that may hold its label; browsers look at 1,024 bytes first and change their mind later
_NO_MARKUP = re.compile(rb"<!--.*?-->|<(script|style|noscript)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_META = re.compile(rb"<meta[\s/][^>]*>", re.IGNORECASE)
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s\"';/>]+)", re.IGNORECASE)
_XML = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']\s*([^\"'>]+?)\s*[\"']", re.IGNORECASE)
# Python's codecs for the encodings of the standard: supersets, where Python's own of that name lack what pages use. Where
# there are several, the first that decodes everything is taken.
_CODECS: dict[str, Sequence[str]] = {
    "gbk": ("gb18030",),
    "gb18030": ("gb18030",),
    "big5": ("big5hkscs", "cp950"),
    "euc-jp": ("euc_jp", "euc_jis_2004"),
    "iso-2022-jp": ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_2004"),
}
# The standard replaces pages in these by one U+FFFD, for the safety of scripts; text is safe to decode.
_REPLACED = {"hz-gb-2312": "hz", "iso-2022-kr": "iso2022_kr", "csiso2022kr": "iso2022_kr"}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_LETTERS_PER_BAD_BYTE = 5  # letters outside ASCII: by chance, other encodings hardly ever give one
_UNUSABLE = ("x-user-defined", "replacement")


def decode_page(body: bytes, label: str, is_html: bool) -> str:
    """The text of a body. `label` is the charset of its HTTP header, or nothing; an unusable label is ignored."""
    for mark, name in _MARKS:
        if body.startswith(mark):
            return _decode(body[len(mark) :], codecs_of(name))
    names = codecs_of(label, body)
    if not names and is_html:
        names = _codecs_in_page(body)
    return _decode(body, names or _guess(body))


def codecs_of(label: str, body: bytes | None = None) -> Sequence[str]:
    """Python's codecs for a label of the web, best first; none for an unusable label."""
    label = label.strip().lower()
    encoding = webencodings.lookup(label)
    if label in _REPLACED:
        return (_REPLACED[label],)
    if encoding is None or encoding.name in _UNUSABLE:
        return ()
    if encoding.name.startswith("utf-16") and body is not None and b"\0" not in body:
        return ()  # no UTF-16: its markup, blanks and line ends would have NULs
    return _CODECS.get(encoding.name, (encoding.codec_info.name,))


def _codecs_in_page(body: bytes) -> Sequence[str]:
    """The label in a page: of a meta element, or of an XML declaration. A page that can be read so far is not UTF-16."""
    head = body[:_HEAD_BYTES]
    labels = [match[1] for meta in _META.findall(_NO_MARKUP.sub(b"", head)) if (match := _CHARSET.search(meta))]
    labels += [match[1] for match in [_XML.match(head.lstrip())] if match]
    for label in labels:
        encoding = webencodings.lookup(label.decode("latin-1"))
        if encoding is not None and encoding.name.startswith("utf-16"):
            return ("utf-8",)
        if encoding is not None and encoding.name == "x-user-defined":
            return ("cp1252",)
        if names := codecs_of(label.decode("latin-1")):
            return names
    return ()


def _guess(body: bytes) -> Sequence[str]:
    """For a body without a label: UTF-8 if it is that, a few bad bytes and a cut end apart, else what a detector finds."""
    text = body.decode(errors="replace")
    num_bad = text.count("\ufffd")
    num_letters = sum(map(len, _NOT_ASCII.findall(text))) - num_bad if num_bad else 0
    if num_letters >= _LETTERS_PER_BAD_BYTE * num_bad:
        return ("utf-8",)
    return codecs_of(detect_encoding(body) or "") or ("cp1252",)


def _decode(body: bytes, names: Sequence[str]) -> str:
    for name in names if len(names) > 1 else ():
        try:
            return body.decode(name)
        except UnicodeDecodeError:
            continue
    return body.decode(names[0], _ERRORS)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """U+FFFD; for a byte that a single-byte code page of Windows leaves free, the control character, as the standard has it."""
    assert isinstance(error, UnicodeDecodeError)
    byte = error.object[error.start]
    if error.encoding == "charmap" and 0x80 <= byte < 0xA0:
        return chr(byte), error.start + 1
    return "\ufffd", error.end


_ERRORS = "bert_shards_web"
codecs.register_error(_ERRORS, _replace)
