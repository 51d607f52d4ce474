import fastshap_lab  # noqa: F401 - makes torchvision importable, which Lightning imports
