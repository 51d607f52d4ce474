"""What surrogates and explainers minimize."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fastshap_lab.shapley.efficiency import efficiency_gap


def surrogate_kl(
    classifier_logits: Float[Tensor, "B K"], surrogate_logits: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return KL(classifier on the whole input ‖ surrogate on each coalition) (B, M), in nats.

    Reference: Frye et al., ICLR 2021, arXiv:2006.01272; Jethani et al., arXiv:2107.07436, section 3.

    Args:
        classifier_logits: Logits of the classifier (B, K).
        surrogate_logits: Logits of the surrogate for each coalition (B, M, K).

    Example:
        >>> round(surrogate_kl(torch.tensor([[100.0, 0.0]]), torch.zeros(1, 1, 2)).item(), 4)  # log 2
        0.6931
    """
    log_p = classifier_logits.log_softmax(dim=-1).unsqueeze(1)
    return (log_p.exp() * (log_p - surrogate_logits.log_softmax(dim=-1))).sum(dim=-1)


def reverse_surrogate_kl(
    classifier_logits: Float[Tensor, "B K"], surrogate_logits: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return KL(surrogate on each coalition ‖ classifier on the whole input) (B, M), in nats.

    Its minimum concentrates on one likely class, where the minimum of ``surrogate_kl`` covers every class that the
    classifier considers.

    Args:
        classifier_logits: Logits of the classifier (B, K).
        surrogate_logits: Logits of the surrogate for each coalition (B, M, K).

    Example:
        >>> round(reverse_surrogate_kl(torch.zeros(1, 2), torch.tensor([[[100.0, 0.0]]])).item(), 4)  # log 2
        0.6931
    """
    log_q = surrogate_logits.log_softmax(dim=-1)
    return (log_q.exp() * (log_q - classifier_logits.log_softmax(dim=-1).unsqueeze(1))).sum(dim=-1)


def constant_kl(classifier_logits: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Return the KL divergence of the best answer that is the same for every image, their mean, in nats; float64.

    It says how much a classifier's answers differ: what a model that ignores the image misses of them.

    Example:
        >>> round(constant_kl(torch.tensor([[100.0, 0.0], [0.0, 100.0]])).item(), 4)  # log 2
        0.6931
    """
    p = classifier_logits.double().softmax(dim=-1)
    return torch.special.entr(p.mean(dim=0)).sum() - torch.special.entr(p).sum(dim=-1).mean()


def bernoulli_kl(
    classifier_logits: Float[Tensor, "B K"], surrogate_logits: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return the KL divergence of independent labels (B, M), a mean over the labels, in nats; see ``surrogate_kl``.

    Args:
        classifier_logits: Logits of the classifier (B, K).
        surrogate_logits: Logits of the surrogate for each coalition (B, M, K).

    Example:
        >>> round(bernoulli_kl(torch.tensor([[0.0]]), torch.tensor([[[0.0]]])).item(), 4)  # both say one half
        0.0
    """
    return _bernoulli_kl(classifier_logits.unsqueeze(1), surrogate_logits)


def reverse_bernoulli_kl(
    classifier_logits: Float[Tensor, "B K"], surrogate_logits: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return the reverse KL divergence of independent labels (B, M), a mean over the labels, in nats.

    For labels that exclude each other see ``reverse_surrogate_kl``.

    Args:
        classifier_logits: Logits of the classifier (B, K).
        surrogate_logits: Logits of the surrogate for each coalition (B, M, K).

    Example:
        >>> round(reverse_bernoulli_kl(torch.tensor([[0.0]]), torch.tensor([[[0.0]]])).item(), 4)
        0.0
    """
    return _bernoulli_kl(surrogate_logits, classifier_logits.unsqueeze(1))


def constant_bernoulli_kl(classifier_logits: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Return ``constant_kl`` of labels that do not exclude each other, a mean over labels, in nats; float64.

    Example:
        >>> constant_bernoulli_kl(torch.tensor([[1.0, 2.0], [1.0, 2.0]])).abs().item() < 1e-9
        True
    """
    both = torch.stack([classifier_logits.double(), -classifier_logits.double()]).sigmoid()  # present, absent
    entropies = torch.special.entr(both.mean(dim=1)) - torch.special.entr(both).mean(dim=1)
    return entropies.sum(dim=0).mean()


def _bernoulli_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Return KL(p ‖ q), a mean over the last axis; from logits, so that no logarithm is taken of a rounded 1."""
    p = p_logits.sigmoid()
    present = F.logsigmoid(p_logits) - F.logsigmoid(q_logits)
    absent = F.logsigmoid(-p_logits) - F.logsigmoid(-q_logits)
    return (p * present + (-p_logits).sigmoid() * absent).mean(dim=-1)


def imitation_error(
    classifier_answers: Float[Tensor, "B K"], surrogate_answers: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return the squared error of a regression's surrogate, a mean over targets.

    Args:
        classifier_answers: On the whole image, in units of each target's spread.
        surrogate_answers: On each coalition, in the same units.

    Example:
        >>> imitation_error(torch.tensor([[1.0]]), torch.tensor([[[3.0]]])).item()
        4.0
    """
    return (surrogate_answers - classifier_answers.unsqueeze(1)).square().mean(dim=-1)


def additive_residuals(
    phi: Float[Tensor, "B P K"],
    coalitions: Bool[Tensor, "B M P"],
    values: Float[Tensor, "B M K"],
    null: Float[Tensor, "#B K"],
) -> Float[Tensor, "B M K"]:
    """Return the value of each coalition minus the sum of its members' attributions and the null value (B, M, K).

    Args:
        phi: Attributions (B, P, K).
        coalitions: Coalitions (B, M, P), True where a player is present.
        values: Values of the coalitions (B, M, K).
        null: Value of the empty coalition (B, K) or (1, K).

    Example:
        >>> phi, coalitions = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[True, False], [True, True]]])
        >>> additive_residuals(phi, coalitions, torch.tensor([[[1.5], [3.0]]]), torch.zeros(1, 1)).flatten().tolist()
        [0.5, 0.0]
    """
    return values - null.unsqueeze(1) - coalitions.to(phi.dtype) @ phi


def shapley_regression_loss(
    phi: Float[Tensor, "B P K"],
    coalitions: Bool[Tensor, "B M P"],
    values: Float[Tensor, "B M K"],
    null: Float[Tensor, "#B K"],
    weights: Float[Tensor, "B M"],
) -> Float[Tensor, ""]:
    """Return P times the weighted mean squared error of the additive approximation of the game.

    Over coalitions from the Shapley kernel, efficient ``phi`` minimize it exactly at the Shapley values.

    Reference: Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436, equation 5. Differs from the paper: the factor P,
    as in its code, and a mean over all classes in place of one drawn class.

    Args:
        phi: Attributions (B, P, K).
        coalitions: Coalitions (B, M, P), True where a player is present.
        values: Values of the coalitions (B, M, K).
        null: Value of the empty coalition (B, K) or (1, K).
        weights: Weights of the coalitions (B, M).

    Example:
        >>> phi, coalitions = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[True, False]]])
        >>> values = torch.tensor([[[2.0]]])  # 1 more than the members' attributions add up to
        >>> shapley_regression_loss(phi, coalitions, values, torch.zeros(1, 1), torch.ones(1, 1)).item()
        2.0
    """
    squared = additive_residuals(phi, coalitions, values, null).square()
    return phi.shape[1] * (weights.unsqueeze(-1) * squared).mean()


def pair_regression_loss(
    phi: Float[Tensor, "B P K"],
    coalitions: Bool[Tensor, "B M P"],
    differences: Float[Tensor, "B M K"],
    weights: Float[Tensor, "B M"],
) -> Float[Tensor, ""]:
    """Return what of ``shapley_regression_loss`` depends on efficient ``phi``, for pairs of complements.

    A coalition's residual and its complement's have a fixed sum; their difference is what values can fit.

    Args:
        phi: Efficient values.
        coalitions: One of each pair.
        differences: Its value beyond that of its complement.
        weights: Of the pairs, with mean 1.

    Example:
        >>> phi, coalitions = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[True, False]]])
        >>> pair_regression_loss(phi, coalitions, torch.tensor([[[-1.0]]]), torch.ones(1, 1)).item()  # 1 - 2 = -1
        0.0
    """
    signs = 2 * coalitions.to(phi.dtype) - 1
    squared = (differences - signs @ phi).square()
    return phi.shape[1] / 4 * (weights.unsqueeze(-1) * squared).mean()


def efficiency_penalty(
    raw: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, ""]:
    """Return P times the mean squared efficiency gap of the values before normalization.

    Reference: Jethani et al., arXiv:2107.07436, section 3; their code's scale, in units of the regression loss.

    Args:
        raw: Values before normalization (B, P, K).
        grand: Value of the coalition of all players (B, K).
        null: Value of the empty coalition (B, K) or (1, K).

    Example:
        >>> raw = torch.tensor([[[1.0], [3.0]]])
        >>> efficiency_penalty(raw, torch.tensor([[6.0]]), torch.tensor([[0.0]])).item()  # a gap of 2 and two players
        8.0
    """
    return raw.shape[1] * efficiency_gap(raw, grand, null).square().mean()
