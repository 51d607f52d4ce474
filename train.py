"""Train, reuse, evaluate: ``python train.py``; see ``python train.py --help``."""

from pathlib import Path

from fastshap_lab.cli import main

if __name__ == "__main__":
    main(Path(__file__).parent / "configs")
