"""Train, reuse, evaluate: ``python train.py``; see ``python train.py --help``."""

from fastshap_lab.cli import main

if __name__ == "__main__":
    main()
