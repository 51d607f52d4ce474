"""One stage per file, and what they share. The only place, beside data, that knows Lightning."""

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
