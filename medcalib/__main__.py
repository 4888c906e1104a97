"""`python -m medcalib`, which `torchrun -m medcalib` needs."""

from medcalib.cli import main

main()
