"""YAML files, a key of which may be given once only; options to and from `--config`."""

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


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds. Raises OSError; and ValueError, with the reason, for what is none, or
    names a key twice, of which YAML's own reader takes the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            keys = [self.construct_object(key, deep=True) for key in own]
            twice = [str(key) for i, key in enumerate(keys) if key in keys[:i]]
            if twice:
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"{twice[0]} is given twice in what begins in line {line}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def from_yaml(path: str, kind: type) -> dict[str, Any]:
    """The values of a `--config` file for a class of options, name -> value.

    Raises InputError if it cannot be read, or holds an unknown name or a value of another type.
    """
    try:
        values = read_yaml(path)
    except OSError as error:
        raise InputError(f"config {path!r}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"config {path!r}: not a YAML file ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"config {path!r}: must hold `option: value` lines")
    types = get_type_hints(kind, include_extras=True)
    found = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in types:
            raise InputError(f"config {path!r}: no option {key!r}; allowed: {', '.join(types)}")
        if name in found:
            raise InputError(f"config {path!r}: {key} is given twice")
        try:
            found[name] = fitted(value, types[name])
        except TypeError as error:
            raise InputError(f"config {path!r}: {key} = {value!r}: must be {error}") from None
    return found
