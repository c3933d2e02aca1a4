"""How a process of a run ends: at a signal, or when torchrun, its launcher, is gone.

start-up    a signal ends the process at once: there is nothing to save
the loop    SIGTERM and SIGINT are stop requests: the run ends after a step that all ranks agree on
evaluation  a signal interrupts
"""

import ctypes
import os
import signal
import socket
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CONNECT_S = 10.0


class StopRequest:
    """Whether this process was asked to stop. More signals change nothing: launchers send several."""

    def __init__(self) -> None:
        self._has_signal = False
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def is_requested(self) -> bool:
        """A signal came, or torchrun has ended, and then no other signal would come."""
        return self._has_signal or (self._launcher is not None and os.getppid() != self._launcher)

    def listen(self) -> None:
        """Handles SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._has_signal = True


def end_at_once() -> None:
    """Until a handler is set, SIGTERM and SIGINT end the process, also while it waits in a library for other processes.

    A handler in Python would run only after such a wait. The end of torchrun is a SIGTERM as well: Linux sends it. If
    torchrun has ended before that, the process exits.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if _launcher_is_gone():
        os.kill(os.getpid(), signal.SIGTERM)


def _launcher_is_gone() -> bool:
    """Whether no process listens at torchrun's address, where the processes of the run find each other."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    try:
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), _CONNECT_S).close()
    except ConnectionRefusedError:
        return True
    except (OSError, KeyError, ValueError):  # the rendezvous tries again, and reports what is wrong
        return False
    return False
