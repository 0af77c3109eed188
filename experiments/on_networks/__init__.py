"""Parts of `real_networks.py`, of which other scripts use scores, too."""
