"""Guidance schedules for zero-shot diffusion posterior samplers, computed in closed form.

Names are imported on first use, so that `spectralpost --help` does not wait for JAX. They are
listed once, in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
