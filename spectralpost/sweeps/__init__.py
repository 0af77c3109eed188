"""Sweeps: thousands of cells, each a problem and a sampler, as a table that nothing loses."""
