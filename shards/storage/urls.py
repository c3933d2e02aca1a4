"""What a URL is. A text with a scheme (`s3://...`) is a URL; any other text is a path on a disk."""

import re
from pathlib import Path

_SCHEME = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*)://")  # `zip::s3://` is a chain of fsspec's


def scheme(url: str) -> str:
    """The part before `://` in lower case; `file` for a path. Names such as `a::b` and `s3:x` are paths."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else "file"


def is_local(url: str) -> bool:
    """Whether the URL is on a mounted disk."""
    return scheme(url) in ("file", "local")


def local_path(url: str) -> Path:
    """The path of a local URL."""
    match = _SCHEME.match(url)
    return Path(url[match.end() :] if match else url)


def join(url: str, *names: str) -> str:
    """A URL below another."""
    return "/".join((url.rstrip("/") or ("/" if url else "."), *names))
