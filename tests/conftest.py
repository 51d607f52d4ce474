import os
import shutil

import pytest
import torch

from fastshap_lab import _timm  # noqa: F401 - makes torchvision importable, which timm and Lightning import
from tests.browsing import FLAGS, PROGRAMS

# On networks this small, threads cost more than they bring: several times so on busy cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium is found")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()
