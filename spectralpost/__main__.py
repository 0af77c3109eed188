"""`python -m spectralpost` is `spectralpost`."""

from .cli import main

main()
