"""SIGTERM and SIGINT as a wish: the run ends after a step that all ranks agree on."""

import os
import signal
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop. Signals that come again change nothing: launchers send more than one."""

    def __init__(self) -> None:
        self._heard = False
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def requested(self) -> bool:
        """A signal came, or torchrun is gone: then nobody could stop this process any more."""
        return self._heard or (self._launcher is not None and os.getppid() != self._launcher)

    def listen(self) -> "StopRequest":
        """From now on signals are heard here."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
