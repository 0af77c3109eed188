"""Parts of `real_networks.py`: which schedules, how they are scored, what is shown of it."""
