"""Losses of surrogates and explainers."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fastshap_lab.shapley.efficiency import efficiency_gap


def surrogate_kl(
    classifier_logits: Float[Tensor, "B K"], surrogate_logits: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return KL(classifier on the whole input ‖ surrogate on each coalition), in nats, for classes under softmax.

    Reference: Frye et al., ICLR 2021, arXiv:2006.01272; Jethani et al., arXiv:2107.07436, section 3.

    Args:
        classifier_logits: The classifier's logits for whole inputs.
        surrogate_logits: The surrogate's logits for each coalition.

    Example:
        A surrogate that imitates its classifier has the divergence 0.

        >>> surrogate_kl(torch.tensor([[0.0, 2.0]]), torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]))
        tensor([[0.0000, 0.3278]])
    """
    log_p = classifier_logits.log_softmax(dim=-1).unsqueeze(1)
    return (log_p.exp() * (log_p - surrogate_logits.log_softmax(dim=-1))).sum(dim=-1)


def reverse_surrogate_kl(
    classifier_logits: Float[Tensor, "B K"], surrogate_logits: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return KL(surrogate on each coalition ‖ classifier on the whole input), in nats, for classes under softmax.

    Where several answers of the classifier are possible for a coalition, its minimum concentrates on a likely one; the
    minimum of ``surrogate_kl`` is their mean.

    Args:
        classifier_logits: The classifier's logits for whole inputs.
        surrogate_logits: The surrogate's logits for each coalition.

    Example:
        >>> reverse_surrogate_kl(torch.tensor([[0.0, 2.0]]), torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]))
        tensor([[0.0000, 0.4338]])
    """
    log_q = surrogate_logits.log_softmax(dim=-1)
    return (log_q.exp() * (log_q - classifier_logits.log_softmax(dim=-1).unsqueeze(1))).sum(dim=-1)


def constant_kl(classifier_logits: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Return the mean KL divergence of the best constant answer from a classifier's answers, in nats, float64.

    The best constant answer is the mean of the classifier's probabilities. The divergence measures how much a
    classifier's answers differ between images: a model that ignores the image cannot do better.

    Args:
        classifier_logits: The classifier's logits.

    Example:
        The mean of two certain answers that contradict each other is off by log 2.

        >>> constant_kl(torch.tensor([[-100.0, 100.0], [100.0, -100.0]]))
        tensor(0.6931, dtype=torch.float64)
    """
    p = classifier_logits.double().softmax(dim=-1)
    return torch.special.entr(p.mean(dim=0)).sum() - torch.special.entr(p).sum(dim=-1).mean()


def bernoulli_kl(
    classifier_logits: Float[Tensor, "B K"], surrogate_logits: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return ``surrogate_kl`` for labels that do not exclude each other: the mean over Bernoulli labels, in nats.

    Args:
        classifier_logits: The classifier's logits for whole inputs.
        surrogate_logits: The surrogate's logits for each coalition.

    Example:
        >>> bernoulli_kl(torch.tensor([[2.0]]), torch.tensor([[[2.0], [0.0]]]))
        tensor([[0.0000, 0.3278]])
    """
    return _bernoulli_kl(classifier_logits.unsqueeze(1), surrogate_logits)


def reverse_bernoulli_kl(
    classifier_logits: Float[Tensor, "B K"], surrogate_logits: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return ``reverse_surrogate_kl`` for labels that do not exclude each other: the mean over labels, in nats.

    Args:
        classifier_logits: The classifier's logits for whole inputs.
        surrogate_logits: The surrogate's logits for each coalition.

    Example:
        >>> reverse_bernoulli_kl(torch.tensor([[2.0]]), torch.tensor([[[2.0], [0.0]]]))
        tensor([[0.0000, 0.4338]])
    """
    return _bernoulli_kl(surrogate_logits, classifier_logits.unsqueeze(1))


def constant_bernoulli_kl(classifier_logits: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Return ``constant_kl`` for labels that do not exclude each other: the mean over labels, in nats, float64.

    Args:
        classifier_logits: The classifier's logits.

    Example:
        >>> constant_bernoulli_kl(torch.tensor([[100.0], [-100.0]]))
        tensor(0.6931, dtype=torch.float64)
    """
    # Probabilities that each label holds, and that it does not.
    both = torch.stack([classifier_logits.double(), -classifier_logits.double()]).sigmoid()
    entropies = torch.special.entr(both.mean(dim=1)) - torch.special.entr(both).mean(dim=1)
    return entropies.sum(dim=0).mean()


def _bernoulli_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Return KL(p ‖ q), a mean over the last axis; computed from logits, so that rounded probabilities do no harm."""
    p = p_logits.sigmoid()
    present = F.logsigmoid(p_logits) - F.logsigmoid(q_logits)
    absent = F.logsigmoid(-p_logits) - F.logsigmoid(-q_logits)
    return (p * present + (-p_logits).sigmoid() * absent).mean(dim=-1)


def imitation_error(
    classifier_answers: Float[Tensor, "B K"], surrogate_answers: Float[Tensor, "B M K"]
) -> Float[Tensor, "B M"]:
    """Return the squared difference of a surrogate's answers from its classifier's, a mean over a regression's targets.

    Args:
        classifier_answers: The classifier's answers to whole images, in units of each target's spread.
        surrogate_answers: The surrogate's answers to each coalition, in the same units.

    Example:
        >>> imitation_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[[1.0, 4.0]]]))
        tensor([[2.]])
    """
    return (surrogate_answers - classifier_answers.unsqueeze(1)).square().mean(dim=-1)


def additive_residuals(
    phi: Float[Tensor, "B P K"],
    coalitions: Bool[Tensor, "B M P"],
    values: Float[Tensor, "B M K"],
    null: Float[Tensor, "#B K"],
) -> Float[Tensor, "B M K"]:
    """Return each coalition's value minus the null value and the sum of its members' attributions.

    Args:
        phi: Attributions.
        coalitions: The coalitions of each input.
        values: Value of each coalition.
        null: Value of the null coalition; one row if it does not depend on the input.

    Example:
        >>> phi, coalitions = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[True, True]]])
        >>> additive_residuals(phi, coalitions, values=torch.tensor([[[5.0]]]), null=torch.tensor([[1.0]]))
        tensor([[[1.]]])
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

    Among efficient ``phi``, its expectation over coalitions from the Shapley kernel is least for the Shapley values.

    Reference: Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436, equation 5. Differs from the paper: the factor P,
    as in its code, and a mean over all classes in place of one drawn class.

    Args:
        phi: Attributions.
        coalitions: The coalitions of each input.
        values: Value of each coalition.
        null: Value of the null coalition; one row if it does not depend on the input.
        weights: Importance weights of the coalitions.

    Example:
        The residuals are 0 and 1, and there are two players.

        >>> phi = torch.tensor([[[1.0], [2.0]]])
        >>> coalitions = torch.tensor([[[True, False], [False, True]]])
        >>> values, null = torch.tensor([[[1.0], [3.0]]]), torch.zeros(1, 1)
        >>> shapley_regression_loss(phi, coalitions, values, null, weights=torch.ones(1, 2))
        tensor(1.)
    """
    squared = additive_residuals(phi, coalitions, values, null).square()
    return phi.shape[1] * (weights.unsqueeze(-1) * squared).mean()


def pair_regression_loss(
    phi: Float[Tensor, "B P K"],
    coalitions: Bool[Tensor, "B M P"],
    differences: Float[Tensor, "B M K"],
    weights: Float[Tensor, "B M"],
) -> Float[Tensor, ""]:
    """Return the part of ``shapley_regression_loss`` that depends on efficient ``phi``, for pairs of complements.

    The residuals of a coalition and its complement have a sum that is the same for all efficient values. Only their
    difference depends on ``phi``.

    Args:
        phi: Efficient values.
        coalitions: One coalition of each pair.
        differences: Value of each of these coalitions minus the value of its complement.
        weights: Weights of the pairs, with mean 1.

    Example:
        The difference of 1 is 2 more than the attributions' difference of -1; the loss is 2/4 · 2².

        >>> phi, coalitions = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[True, False]]])
        >>> pair_regression_loss(phi, coalitions, differences=torch.tensor([[[1.0]]]), weights=torch.ones(1, 1))
        tensor(2.)
    """
    signs = 2 * coalitions.to(phi.dtype) - 1
    squared = (differences - signs @ phi).square()
    return phi.shape[1] / 4 * (weights.unsqueeze(-1) * squared).mean()


def efficiency_penalty(
    raw: Float[Tensor, "B P K"], grand: Float[Tensor, "B K"], null: Float[Tensor, "#B K"]
) -> Float[Tensor, ""]:
    """Return P times the mean squared efficiency gap of the values before normalization.

    Reference: Jethani et al., arXiv:2107.07436, section 3. The factor P is their code's, and gives the penalty the
    units of the regression loss.

    Args:
        raw: Values before normalization.
        grand: Value of the grand coalition of each input.
        null: Value of the null coalition; one row if it does not depend on the input.

    Example:
        The gap of 7 - 1 - (2 + 3) is 1, and there are two players.

        >>> efficiency_penalty(torch.tensor([[[2.0], [3.0]]]), torch.tensor([[7.0]]), torch.tensor([[1.0]]))
        tensor(2.)
    """
    return raw.shape[1] * efficiency_gap(raw, grand, null).square().mean()
