"""The learning rate of a step: a pure function of its place in the steps that a schedule spans.

        peak  ___________
warm-up  /               \\   decay: a share of the steps, at the end
        /                 \\  end_lr
"""

import math
from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal["linear", "cosine", "constant", "wsd", "inverse-sqrt"]
DecayShape = Literal["linear", "sqrt"]


@dataclass(frozen=True)
class Schedule:
    """A schedule over `num_steps` steps. All of them rise linearly to `peak` in the first `warmup_steps`.

    linear: falls to `end` (Devlin et al. 2019, arXiv:1810.04805, appendix A.2).
    cosine: falls to `end` along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5).
    constant: stays at `peak`.
    wsd: stays, and falls in the last `decay_share` of the steps: linearly, or as 1 - sqrt (Hu et al. 2024,
        arXiv:2404.06395, section 4; Haegele et al. 2024, arXiv:2405.18392, equation 2).
    inverse-sqrt: falls as 1 / sqrt(step) (Vaswani et al. 2017, arXiv:1706.03762, equation 3).
    """

    name: ScheduleName
    peak: float
    end: float
    warmup_steps: int
    num_steps: int
    decay_share: float = 0.1
    decay: DecayShape = "linear"

    def lr(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.name == "constant":
            return self.peak
        if self.name == "inverse-sqrt":
            return self.peak * math.sqrt(max(1, self.warmup_steps) / (step + 1))
        first, num_falling = self.falling_steps()
        left = min(num_falling, max(0, first + num_falling - step))  # steps until the end of the fall
        if self.name == "cosine":
            share = (1.0 + math.cos(math.pi * (1.0 - left / max(1, num_falling)))) / 2.0
            return self.end + (self.peak - self.end) * share
        if self.name == "wsd" and self.decay == "sqrt":
            share = 1.0 - math.sqrt(1.0 - left / max(1, num_falling))
            return self.end + (self.peak - self.end) * share
        # In this order: it gives the same bits as the formula without `end`.
        return (self.peak - self.end) * left / max(1, num_falling) + self.end

    def falling_steps(self) -> tuple[int, int]:
        """The first step that falls, and the number of steps that do."""
        after_warmup = max(0, self.num_steps - self.warmup_steps)
        if self.name != "wsd":
            return self.warmup_steps, after_warmup
        num_falling = min(round(self.decay_share * self.num_steps), after_warmup)
        return self.num_steps - num_falling, num_falling
