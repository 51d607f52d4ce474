import torch

from fastshap_lab.metrics import correctness_subsets


def test_every_image_is_in_the_one_subset_that_describes_it():
    a, b = torch.tensor([True, True, False, False, True]), torch.tensor([True, False, True, False, True])
    subsets = correctness_subsets(a, b)
    assert {name: members.nonzero().flatten().tolist() for name, members in subsets.items()} == {
        "both right": [0, 4],
        "only A right": [1],
        "only B right": [2],
        "both wrong": [3],
    }
    assert torch.stack(list(subsets.values())).sum(dim=0).tolist() == [1] * 5
