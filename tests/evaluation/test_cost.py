import pytest
import torch
from torch import nn

from fastshap_lab.evaluation.cost import metered


def test_images_are_counted_there_and_back():
    model = nn.Linear(3, 2)
    image = torch.rand(4, 3, requires_grad=True)
    with metered(model) as cost:
        model(image)
        with torch.no_grad():
            model(image[:1])
        model(image[:2]).sum().backward()
    assert (cost.forward, cost.backward) == (7, 2)
    assert cost.seconds > 0
    model(image)
    assert cost.forward == 7  # no hook is left


def test_memory_is_what_was_held_at_once():
    model = nn.Linear(1, 1)
    with metered(model) as cost:
        held = torch.ones(2**26)  # 256 MiB, let go before the end
        del held
    if cost.mebibytes == cost.mebibytes:  # not every system tells
        assert cost.mebibytes == pytest.approx(256, abs=32)
