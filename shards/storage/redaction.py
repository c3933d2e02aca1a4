"""Secrets that URLs carry, taken out of whatever is shown or stored."""

import re

_PASSWORD = re.compile(r"(?<=://)[^/\s:@'\"]*:[^\s@'\"]+@(?:[^\s@/'\"]*@)*")
_USER = re.compile(r"(?<=https://)[^/\s:@'\"]+@|(?<=http://)[^/\s:@'\"]+@")
_QUERY = re.compile(
    r"([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|sig|signature|authorization|auth|pwd|passwd|jwt|[a-z_-]*(?:token|key|keyid|secret|password|credential))=)[^&\s'\"]*[^&\s'\":;,]",
    re.I,
)


def redacted(text: str) -> str:
    """The text without the passwords, signatures and tokens of the URLs in it."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", _PASSWORD.sub("***@", text)))
