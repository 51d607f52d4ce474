"""What an evaluation consists of: pipelines, metrics, sections and checks."""

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
