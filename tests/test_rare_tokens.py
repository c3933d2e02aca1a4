"""Which texts have a token that occurs once in all of them, or the unknown one."""

import numpy as np
import pytest

from prep.tokens.rare_tokens import have_rare_tokens


@pytest.mark.parametrize(
    ("texts", "unknown", "expected"),
    [
        ([[1, 2], [1, 2, 3], [], [2]], -1, [False, True, False, False]),
        ([[1, 2], [1, 2], [4, 4]], 4, [False, False, True]),
        ([[5]], 0, [True]),
        ([], -1, []),
    ],
)
def test_rare_tokens(texts: list[list[int]], unknown: int, expected: list[bool]) -> None:
    ids = np.array([number for text in texts for number in text], np.uint32)
    lengths = np.array([len(text) for text in texts], np.int64)
    assert have_rare_tokens(ids, lengths, 6, unknown).tolist() == expected
