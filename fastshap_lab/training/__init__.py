"""Lightning trainings that resume bit by bit: modules, trainer, callbacks, optimizers."""

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
