"""The options of a command as the YAML of a `--config` file, and back."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from .errors import InputError
from .signatures import fitted


def to_yaml(options: Any) -> str:
    """Options as the text of a `--config` file; options that are None are left out."""
    import yaml

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    values = {field.name: plain(getattr(options, field.name)) for field in fields(options)}
    values = {name: value for name, value in values.items() if value is not None}
    return yaml.safe_dump(values, sort_keys=False)


def from_yaml(path: str, kind: type) -> dict[str, Any]:
    """The values of a `--config` file for one of the classes above, name -> value.

    Raises InputError if it cannot be read, or holds an unknown name or a value of another type.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"config {path!r}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"config {path!r}: not a YAML file ({message})") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path!r}: must hold `option: value` lines")
    types = get_type_hints(kind, include_extras=True)
    found = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in types:
            raise InputError(f"config {path!r}: no option {key!r}; allowed: {', '.join(types)}")
        try:
            found[name] = fitted(value, types[name])
        except TypeError as error:
            raise InputError(f"config {path!r}: {key} = {value!r}: must be {error}") from None
    return found
