from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nbutils.features import neighbour_votes
from tests.helpers import assert_one_line


@pytest.mark.parametrize("k", [1, 3, 10])
def test_votes_equal_a_loop(k: int, generator: torch.Generator) -> None:
    points, labels = torch.randn(40, 5, generator=generator), torch.randint(4, (40,), generator=generator)
    for index, vote in enumerate(neighbour_votes(points, labels, k).tolist()):
        order = (points - points[index]).norm(dim=1).argsort().tolist()
        order.remove(index)
        counts = Counter(labels[order[:k]].tolist())
        assert vote == min(label for label, count in counts.items() if count == max(counts.values()))


def test_equal_points_do_not_vote_for_themselves() -> None:
    assert neighbour_votes(torch.zeros(3, 2), torch.tensor([0, 1, 1]), 2).tolist() == [1, 0, 0]


POINTS, LABELS = torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: neighbour_votes(POINTS, LABELS, 5), ("k = 5, 5 points", "1 <= k < N")),
    (lambda: neighbour_votes(POINTS, LABELS, 0), ("k = 0",)),
    (lambda: neighbour_votes(POINTS, LABELS[:4], 2), ("labels (4,)", "one label per point")),
])
def test_bad_input_is_one_line(call: Callable[[], Tensor], words: tuple[str, ...]) -> None:
    assert_one_line(call, words)
