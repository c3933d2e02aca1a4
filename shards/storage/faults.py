"""Errors of storage: which ones are temporary, and the remedy for the others. Any error of a backend becomes a StorageError.

Each backend raises errors of its own. They are recognised by an HTTP status or by their names, so that no backend has to
be imported or installed.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar
from zlib import crc32

from shards.errors import UserError
from shards.storage.redaction import redacted

_log = logging.getLogger(__name__)  # Python's handler of last resort prints the bare message on stderr

# Temporary faults are retried for this long after the first one: a throttle, a server that restarts.
DEADLINE_S = 120.0
# The same for a server that has not answered this process yet: more likely its address is wrong.
FIRST_CONTACT_S = 30.0
_FIRST_WAIT_S, _LONGEST_WAIT_S, _SILENT_S = 0.5, 15.0, 3.0
_FINAL_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    NotImplementedError,  # a second try will not help
    Warning,
)
_FINAL_NAMES = ("ParamValidationError", "UnknownEndpointError", "OfflineModeIsEnabled")
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
    "LocalTokenNotFoundError",
)
_PASSING_CODES = ("RequestTimeout", "SlowDown", "OperationAborted", "IncompleteBody", "BadDigest", "NoSuchUpload")
_PASSING_STATUS = (408, 409, 425, 429)
_LOGINS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "az": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "abfs": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "`hf auth login`, or HF_TOKEN",
}
_LOCAL_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EFBIG: "the file system cannot hold a file of that size; use another",
    errno.EACCES: "check its permissions",
    errno.EROFS: "choose another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
}
_answered: set[str] = set()  # the servers that have answered this process
Value = TypeVar("Value")


class StorageError(UserError):
    """A read or write failed. The text names the URL, the reason and the remedy, and shows no secret of the URL."""

    def __init__(self, text: str) -> None:
        super().__init__(redacted(text))


class MissingError(StorageError):
    """There is nothing at the URL."""


class BusyError(StorageError):
    """Another process uses the folder."""


@contextmanager
def translated(url: str, doing: str) -> Iterator[None]:
    """Turns any error inside into a StorageError about `url`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each backend raises its own kinds; this is their border
        raise storage_error(url, doing, error) from error


def retried(url: str, doing: str, action: Callable[[], Value]) -> Value:
    """Runs `action` on a server, and again after temporary faults, for at most DEADLINE_S. Raises StorageError.

    The waits double, from half a second. A part of each wait depends on the URL, so that processes which fail at the same
    time do not try again at the same time.
    """
    server = "/".join(url.split("/", 3)[:3])
    first_fault, has_warned = 0.0, False
    for attempt in count():
        try:
            value = action()
        except UserError:
            raise
        except Exception as error:  # each backend raises its own kinds; this is their border
            first_fault = first_fault or time.monotonic()
            if status_of(error):
                _answered.add(server)
            patience_s = DEADLINE_S if server in _answered else FIRST_CONTACT_S
            wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt) * (1 + crc32(f"{url} {attempt}".encode()) / 2**32) / 2
            if not may_pass(error) or time.monotonic() + wait_s - first_fault > patience_s:
                raise storage_error(url, doing, error) from error
            if not has_warned and time.monotonic() - first_fault > _SILENT_S:
                has_warned = True
                _log.warning(
                    redacted(f"{url}: cannot {doing} it now ({_reason(error)}); trying again for up to {patience_s:.0f} s")
                )
            time.sleep(wait_s)
        else:
            _answered.add(server)
            return value
    raise AssertionError("unreachable")


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later: after a throttle, a broken connection, a server that is down."""
    error = _root(error)
    status = status_of(error)
    if _code(error) in _PASSING_CODES:
        return True
    if status and status >= 400:
        return (status >= 500 and status != 501) or status in _PASSING_STATUS
    if isinstance(error, _FINAL_ERRORS) or type(error).__name__ in (*_FINAL_NAMES, *_NO_CREDENTIALS):
        return False
    return not str(error).startswith("Forbidden")  # gcsfs reports 403 as text


def storage_error(url: str, doing: str, error: Exception) -> StorageError:
    """The one line that names the URL, the reason and the remedy."""
    protocol, separator, _ = url.partition("://")
    if not separator or protocol in ("file", "local"):
        return _local_error(url, doing, error)
    kind = MissingError if is_missing(error) else StorageError
    return kind(f"{url}: cannot {doing} it: {_reason(error)}; {_remedy(protocol, error)}")


def _local_error(url: str, doing: str, error: Exception) -> StorageError:
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or _reason(error)
    remedy = _LOCAL_REMEDIES.get(number or 0, "check that it exists and that you may use it, then run the same command again")
    kind = MissingError if isinstance(error, FileNotFoundError) else StorageError
    place = getattr(error, "filename", None) if doing in ("list", "clean") else None
    return kind(f"{place or url}: cannot {doing} it: {reason}; {remedy}")


def _remedy(protocol: str, error: Exception) -> str:
    login = f" ({_LOGINS[protocol]})" if protocol in _LOGINS else ""
    root, again = _root(error), "run the same command again"
    if type(root).__name__ in _NO_CREDENTIALS or (not status_of(root) and "credentials" in str(root)):
        return f"set credentials{login}"
    if _is_denied(root):
        name = "the name and " if protocol == "hf" else ""  # the hub reports private repositories as missing
        return f"check {name}the credentials{login} and their permissions"
    if protocol == "hf" and (is_missing(error) or not status_of(root)):
        return (
            "check the name and the network; where there is none, fetch it elsewhere with "
            "`hf download --repo-type dataset NAME --local-dir DIR` and pass that folder"
        )
    if _code(root) == "NoSuchBucket" or "bucket does not exist" in str(root):
        return f"there is no such bucket: check its name, or create it and {again}"
    if is_missing(error):
        return "check the path"
    if may_pass(error):
        return f"retries did not help: check the address and that the server is up, then {again}"
    return f"check that it exists and that you may use it, then {again}"


def _reason(error: BaseException) -> str:
    error = _root(error)
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return " ".join(f"{type(error).__name__}: {error}".split())


def is_missing(error: BaseException) -> bool:
    """Whether the server says that there is nothing."""
    root = _root(error)
    status = status_of(root)
    if _code(root) == "NoSuchUpload":
        return False
    return status in (404, 410) or (status is None and isinstance(root, FileNotFoundError))


def _is_denied(error: BaseException) -> bool:
    forbidden = isinstance(error, PermissionError) or str(error).startswith("Forbidden")
    return forbidden or status_of(error) in (401, 403)


def _root(error: BaseException) -> BaseException:
    """The cause of a FileNotFoundError: fsspec raises one for an https:// server that is down."""
    while isinstance(error, FileNotFoundError) and not isinstance(error.__cause__, LookupError | None):
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the server's answer, or None without an answer."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        code = getattr(link, "code", None) if type(link).__name__ == "HttpError" else None  # in other errors it is no status
        status = getattr(link, "status", None) if link is error else None  # aiohttp sets one on parse errors, too
        own = (status, getattr(link, "status_code", None), code)
        for value in (*own, getattr(response, "status_code", None), metadata.get("HTTPStatusCode")):
            if str(value).isdecimal() and 100 <= int(str(value)) < 600:
                return int(str(value))
    return None


def _code(error: BaseException) -> str:
    """S3's name of the error, or an empty text."""
    for link in _chain(error):
        response: Any = getattr(link, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(8):  # never an endless one
        if link is None:
            return
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
