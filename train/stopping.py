"""SIGTERM and SIGINT as a wish: the run ends after a step that all ranks agree on."""

import signal
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop. Signals that come again change nothing: launchers send more than one."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> "StopRequest":
        """From now on signals are heard here."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
