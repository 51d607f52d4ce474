"""One stage per file, which ends in its declaration."""

from fastshap_lab.stages import classifier, evaluate, explain, explainer, labels, pretrain, surrogate

# In the order in which they are made.
STAGES = (
    pretrain.STAGE,
    classifier.STAGE,
    surrogate.STAGE,
    labels.STAGE,
    explainer.STAGE,
    explain.STAGE,
    evaluate.STAGE,
)
