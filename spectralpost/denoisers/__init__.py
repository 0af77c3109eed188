"""Denoisers in pixel space, one kind a file: callables (x_t, t) -> E[x_0 | x_t]."""
