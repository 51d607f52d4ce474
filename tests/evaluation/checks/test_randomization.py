import pytest
import torch
from torch import nn

from fastshap_lab.attribution import METHODS
from fastshap_lab.evaluation.checks.randomization import Randomization, layers, redrawn
from fastshap_lab.models import Classifier
from tests import small
from tests.attribution.families import FAMILIES, with_pixels

IMAGES = small.images(3)


def classifier(name: str) -> Classifier:
    network = small.scrambled(FAMILIES[name])
    return network if isinstance(network, Classifier) else with_pixels(network)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_cascade_step_leaves_no_parameter_and_the_original_as_it_was(name):
    model = classifier(name)
    before, steps = state(model), layers(model, IMAGES[:1])
    changed = state(redrawn(model, [one for names in steps.values() for one in names], seed=0))
    assert changed.keys() == before.keys()
    for key, tensor in model.named_parameters():
        assert not torch.equal(changed[key], tensor), key
    for key in changed:
        if "running" in key:
            assert torch.equal(changed[key], torch.full_like(changed[key], float("var" in key)))
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    assert not any(hooks for module in model.modules() for hooks in (module._forward_pre_hooks, module._forward_hooks))


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_are_few_and_hold_every_parameter_once(name):
    model = classifier(name)
    steps = layers(model, IMAGES[:1])
    assert 2 <= len(steps) <= 12
    drawn = [one for names in steps.values() for one in names]
    owners = [one for one, module in model.network.named_modules() if list(module.parameters(recurse=False))]
    assert sorted(drawn) == sorted(owners)


def test_the_head_comes_first_blocks_in_turn_and_tokens_last():
    assert list(layers(classifier("vit"), IMAGES[:1]))[:2] == ["head", "norm"]
    deep = small.classifier("vit", depth=7)
    steps = layers(deep, IMAGES[:1])
    blocks = [f"blocks.{number}" for number in reversed(range(7))]
    assert list(steps) == ["head", "norm", *blocks, "patch_embed.proj", "cls_token, pos_embed"]
    assert len(steps["blocks.3"]) == 6  # two norms, qkv and projection, and two layers of the MLP
    resnet = layers(small.classifier("resnet", depths=[2, 2, 2, 2]), IMAGES[:1])
    stages = [f"layer{stage}.{block}" for stage in (4, 3, 2, 1) for block in (1, 0)]
    assert list(resnet) == ["fc", *stages, "bn1", "conv1"]
    deepest = layers(small.classifier("vit", depth=12), IMAGES[:1])
    assert (len(deepest), next(iter(deepest)), list(deepest)[-1]) == (
        12,
        "head",
        "cls_token, pos_embed … patch_embed.proj",
    )


def test_the_order_is_that_of_a_pass_not_of_registration():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, image):
            return self.head(self.body(image).mean(dim=(2, 3)))

    assert list(layers(with_pixels(Backwards()), IMAGES[:1])) == ["head", "body"]


def test_draws_follow_from_seed_and_layer_alone():
    model = classifier("vit")
    alone, among = redrawn(model, ["head"], 1), redrawn(model, ["blocks.0.norm1", "blocks.0.attn.qkv", "head"], 1)
    other = redrawn(model, ["head"], 2)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(alone.network.head.weight, redrawn(model, ["head"], 1).network.head.weight)
    assert torch.equal(torch.rand(1), expected)  # nobody else's draws are disturbed
    assert torch.equal(alone.network.head.weight, among.network.head.weight)
    assert not torch.equal(alone.network.head.weight, other.network.head.weight)
    assert torch.equal(alone.network.blocks[0].attn.qkv.weight, model.network.blocks[0].attn.qkv.weight)


def test_parameters_without_an_initialization_keep_mean_and_spread():
    model = small.classifier("vit", patch_size=1, width=48)
    before, drawn = model.network.pos_embed, redrawn(model, [""], 0).network.pos_embed
    assert (drawn.mean() - before.mean()).abs() < 0.1 * before.std()
    assert drawn.std().item() == pytest.approx(before.std().item(), rel=0.1)
    assert not torch.equal(drawn, before)


def test_no_layers_drawn_is_the_same_network():
    model = classifier("resnet")
    maps = [METHODS["saliency"](one).attribute(IMAGES, 1) for one in (model, redrawn(model, [], 0))]
    torch.testing.assert_close(*maps, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_similarity_falls_where_the_network_is_asked_and_only_there(evaluation, mode):
    Randomization(mode, seeds=2, images=2)(evaluation, "randomization")
    table = evaluation.report.tables[f"randomization-{mode}"].set_index(["model", "method"])
    measures = ["spearman", "spearman_absolute", "ssim"]
    assert table.loc["A", "random"][measures].tolist() == pytest.approx([1, 1, 1])
    assert table.loc["B", "random"]["spearman"] == pytest.approx(1)
    assert "explainer" not in table.loc["A"].index  # which belongs to its own network
    assert table.loc["A", "saliency"]["spearman"] < 0.9
    assert table.loc["B", "rollout"]["spearman"] < 0.95
    steps = evaluation.report.tables[f"randomization-{mode}-A"]
    assert steps.loc["saliency"].iloc[0] == pytest.approx(1)  # before the first layer is drawn
    assert list(steps)[:2] == ["none", "fc"]
    low, high = (table.loc["A", "saliency"][f"spearman_{end}"] for end in ("low", "high"))
    assert low <= table.loc["A", "saliency"]["spearman"] <= high


def test_similarities_are_computed_once(evaluation, monkeypatch):
    check = Randomization(seeds=2, images=2)
    check(evaluation, "randomization")
    first = evaluation.report.tables["randomization-cascading"]
    monkeypatch.setattr(Randomization, "_similarity", lambda *_: pytest.fail("computed again"))
    check(evaluation, "randomization")
    assert evaluation.report.tables["randomization-cascading"].equals(first)
