"""`python -m orchestrator` is `kvcache`."""

from orchestrator.cli import main

main()
