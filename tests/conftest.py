import os

import torch

from fastshap_lab import _timm  # noqa: F401 - makes torchvision importable, which timm and Lightning import

# On networks this small, threads cost more than they bring: several times so on busy cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
