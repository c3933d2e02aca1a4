"""SIGTERM and SIGINT as stop requests: the run ends after a step that all ranks agree on."""

import os
import signal
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop. More signals change nothing: launchers send several."""

    def __init__(self) -> None:
        self._has_signal = False
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def is_requested(self) -> bool:
        """A signal came, or torchrun is gone: nobody could stop this process any more."""
        return self._has_signal or (self._launcher is not None and os.getppid() != self._launcher)

    def listen(self) -> "StopRequest":
        """Handles SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._has_signal = True
