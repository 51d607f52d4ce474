"""The stages, each in a file of its own, which ends with the stage's declaration."""

from fastshap_lab.stages import classifier, evaluate, explain, explainer, labels, pretrain, surrogate

# In the order in which runs are made.
STAGES = (
    pretrain.STAGE,
    classifier.STAGE,
    surrogate.STAGE,
    labels.STAGE,
    explainer.STAGE,
    explain.STAGE,
    evaluate.STAGE,
)
