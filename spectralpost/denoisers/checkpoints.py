"""Checkpoints of a training, by Orbax: a run finds its own and goes on."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from ..files import whole_file

T = TypeVar("T")  # arrays, as the training keeps them
SAID = 200  # letters of somebody else's message


class Checkpoints:
    """The last states of a training.

    about  what it is a training of, as JSON has it. InputError if the folder holds those of
           another, or other files, or cannot be used
    """

    def __init__(self, folder: str | os.PathLike[str], about: dict[str, Any]):
        import orbax.checkpoint as ocp

        path = Path(folder).absolute()
        self.ocp, self.folder, self.about = ocp, folder, path / "recipe.json"
        try:
            path.mkdir(parents=True, exist_ok=True)
            if self.about.exists():
                _check_about(folder, json.loads(self.about.read_text()), about)
            elif any(path.iterdir()):
                raise InputError(f"checkpoints {str(folder)!r}: holds other files")
            else:
                with whole_file(self.about) as temporary:
                    temporary.write_text(json.dumps(about, indent=1) + "\n")
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"checkpoints {str(folder)!r}: cannot be used ({error})") from error
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=True, enable_async_checkpointing=False
        )
        with self._one_line():
            self.manager = ocp.CheckpointManager(path / "states", options=options)

    def latest(self, state: T) -> tuple[T, list[tuple[int, float]]]:
        """The last state and the losses until then; the given one if there is none."""
        args = self.ocp.args
        with self._one_line():
            step = self.manager.latest_step()
            if step is None:
                return state, []
            wanted = args.Composite(state=args.StandardRestore(state), losses=args.JsonRestore())
            restored = self.manager.restore(step, args=wanted)
            losses = [(int(at), float(loss)) for at, loss in restored["losses"]]
            if not losses or losses[-1][0] != step:
                raise ValueError(f"no loss of step {step}")
            return restored["state"], losses

    def save(self, step: int, state: Any, losses: list[tuple[int, float]]) -> None:
        args = self.ocp.args
        both = args.Composite(state=args.StandardSave(state), losses=args.JsonSave(losses))
        with self._one_line("written"):
            self.manager.save(step, args=both)

    def close(self) -> None:
        self.manager.close()

    @contextmanager
    def _one_line(self, done: str = "used, perhaps damaged") -> Iterator[None]:
        """InputError for whatever is wrong with the states."""
        try:
            yield
        # What Orbax raises of a damaged file is what reads it: JSON, keys, trees, TensorStore.
        except Exception as error:
            words = f"{type(error).__name__}: {error}".splitlines()[0][:SAID]
            raise InputError(
                f"checkpoints {str(self.folder)!r}: cannot be {done} ({words}); "
                "choose another folder"
            ) from error


def _check_about(folder: str | os.PathLike[str], stored: Any, wanted: dict) -> None:
    if not isinstance(stored, dict):
        raise ValueError("recipe.json holds no recipe")
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise InputError(
                f"checkpoints {str(folder)!r}: of {name} = {stored.get(name)}, not {value}; choose "
                "another folder"
            )
