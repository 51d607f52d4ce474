"""Runs: what a configuration asks for, made once and kept in folders."""

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
