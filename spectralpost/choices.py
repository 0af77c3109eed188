"""Names with options, as the options of a command give them: words, and short flags."""

from typing import Any

from .errors import InputError
from .signatures import parsed_words

# Short flags: field -> what it is an option of (field, names), and that option.
SHORT: dict[str, tuple[str, tuple[str, ...], str]] = {
    "blur_std": ("degradation", ("gaussian_blur",), "std"),
    "blur_size": ("degradation", ("uniform_blur",), "size"),
    "motion_length": ("degradation", ("motion_blur",), "length"),
    "motion_angle": ("degradation", ("motion_blur",), "angle"),
    "kernel": ("degradation", ("from_kernel",), "kernel"),
    "spacing": ("grid", ("vp_linear", "vp_cosine"), "spacing"),
}


def choice(options: Any, field: str, default: str = "") -> tuple[str, dict[str, Any]]:
    """The name that `options.<field>` chooses (or `default`), and the options given for it.

    These are the name=value words of `<field>_options` and the short flags, which win: the words
    may be a `--config` file's. Hyphens in the name count as underscores. Raises InputError for a
    short flag of another name.
    """
    name = (getattr(options, field) or default).replace("-", "_")
    name = "from_kernel" if (field, name) == ("degradation", "kernel") else name
    given = parsed_words(f"{field}-options", getattr(options, f"{field}_options"))
    for flag, (owner, names, option) in SHORT.items():
        value = getattr(options, flag, None) if owner == field else None
        if value is not None and name not in names:
            only = " and ".join(names)
            raise InputError(f"{flag} = {value}: has no effect on {field} {name!r}, only on {only}")
        if value is not None:
            given[option] = value
    return name, given
