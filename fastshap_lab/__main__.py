"""``python -m fastshap_lab`` is ``fastshap-lab``."""

from fastshap_lab.commands import main

main()
