"""Secrets in URLs, removed from everything that is shown or stored."""

import re

# The login of a URL, up to the last `@` before the path. A password may hold quotes, `/` and `@`; it needs a `:` before it.
_PASSWORD = re.compile(r"(?<=://)[^/\s:@]*:[^\s@]+@(?:[^\s@/]*@)*")
# The same with blanks in the password, where the text that follows is still the host of a URL.
_SPACED_PASSWORD = re.compile(r"(?<=://)[^/\s:@]*:[^@\n]{1,100}@(?=[\w.-]+(?::\d+)?/)")
# A user without a password is a secret (a token) where the part before `@` names no container, as it does in abfs://.
_USER = re.compile(r"(?<=https://)[^/\s@]+@|(?<=http://)[^/\s@]+@|(?<=ftp://)[^/\s@]+@|(?<=sftp://)[^/\s@]+@")
_NAMES = (
    r"x-amz-[a-z-]+|x-goog-[a-z-]+|sig|sas|code|signature|authorization|auth|pwd|passwd|pass|jwt|bearer"
    r"|[a-z_-]*(?:token|key|keyid|secret|password|credential|credentials)"
)
_QUERY = re.compile(rf"((?:[?&;#]|&amp;)(?:{_NAMES})=)[^&;\s'\"]*[^&\s'\":;,]", re.I)
_ACCOUNT = re.compile(r"\b((?:Account|SharedAccess)(?:Key|Signature)=)[^;\s'\"]+", re.I)  # connection strings of Azure


def redacted(text: str) -> str:
    """The text without the passwords, signatures and tokens of the URLs in it."""
    for pattern in (_PASSWORD, _SPACED_PASSWORD, _USER):
        text = pattern.sub("***@", text)
    for pattern in (_QUERY, _ACCOUNT):
        text = pattern.sub(r"\1***", text)
    return text
