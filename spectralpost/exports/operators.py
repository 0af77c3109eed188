"""Which degradations other codes have an operator for.

bahjat-kawar/ddrm, wyhuai/DDNM and NVlabs/RED-diff have a class for each, with its singular value
decomposition: nothing, masks, means of squares, and filters, with or without decimation, that are
one filter along rows and one along columns. RED-diff has the same one along both; so have all three
where they decimate. Their classes for any matrix are built by none of their programs.
"""

import numpy as np

from ..errors import InputError
from ..schedule import Schedule

FILTERS = ("gaussian_blur", "uniform_blur", "motion_blur", "from_kernel")
SVD = ("identity", *FILTERS, "downsample", "inpaint")
# Their blurs repeat the singular values plane after plane, where all else goes pixel by pixel.
BY_PLANE = (
    "# in Deblurring and Deblurring2D: repeat_interleave(3) in place of repeat(1, 3), else planes "
    "are blurred by other kernels"
)

INVERTED = '''
def inverted(h):
    """1 / h, and 0 for singular values up to THRESHOLD."""
    return torch.where(h > THRESHOLD, 1 / h, torch.zeros_like(h))
'''


def check_known(target: str, schedule: Schedule, known: tuple[str, ...]) -> None:
    """InputError unless the degradation is one of those."""
    name = schedule.degradation_name
    if name not in known:
        raise InputError(
            f"target = {target!r}: has no operator for {name!r}; it has {', '.join(known)}"
        )


def check_svd(target: str, schedule: Schedule, square: bool = False) -> None:
    """InputError unless a code with operators by singular values has this one.

    square  whether it filters rows and columns alike
    """
    known = tuple(name for name in SVD if not (square and name == "motion_blur"))
    check_known(target, schedule, known)
    name, options = schedule.degradation_name, schedule.degradation_options
    kernel = options.get("kernel")
    alike = square or name == "downsample"
    filters = name in FILTERS or (name == "downsample" and kernel != "average")
    if filters and schedule.channels != 3:
        raise InputError(
            f"target = {target!r}: its filters are for 3 planes, the schedule is for "
            f"{schedule.channels}"
        )
    if name == "motion_blur":
        fits = float(schedule.degradation().options["angle"]) % 90 == 0
    else:  # kernels that have a name are products
        fits = kernel is None or isinstance(kernel, str) or _is_product(kernel, alike)
    if not fits:
        which = "the same along rows and columns" if alike else "one along rows, one along columns"
        raise InputError(
            f"target = {target!r}: has no operator for this {name!r}; it has those whose kernel is "
            f"a product of two filters, {which}"
        )


def _is_product(kernel: object, alike: bool) -> bool:
    """Whether a kernel is a column times a row, of the same numbers if `alike`."""
    grid = np.atleast_2d(np.asarray(kernel, float))
    sizes = np.linalg.svd(grid, compute_uv=False)
    near = 1e-6 * sizes[0]  # of kernels that were stored in single precision
    square = grid.shape[0] == grid.shape[1] and np.allclose(grid, grid.T, 0, near)
    return bool(np.all(sizes[1:] <= near)) and (square or not alike)
