"""A schedule that a command is given, and the prior it was made for."""

from pathlib import Path

from ..errors import InputError
from ..gallery import entry_of, gallery_prior, gallery_schedule
from ..prior import Prior
from ..prior_file import load_prior
from ..schedule import Schedule
from ..schedule_file import load_schedule


def is_file(given: Path | str) -> bool:
    """Whether a schedule is in a file; else it is named as in the gallery."""
    return Path(given).suffix == ".json" or Path(given).exists()


def given_schedule(given: Path | str, option: str = "schedule") -> Schedule:
    """The schedule of a file, or the one of the gallery of that name; or InputError."""
    if is_file(given):
        return load_schedule(Path(given))
    try:
        return gallery_schedule(str(given))
    except InputError as error:
        why = str(error).partition(": ")[2]  # behind the name
        raise InputError(f"{option} = {str(given)!r}: no such file, and {why}") from None


def prior_of_schedule(given: Path | str, prior_path: Path | None, schedule: Schedule) -> Prior:
    """The prior at `prior_path`, or the one that the schedule was made for: the gallery's, or the
    one beside the file; InputError if that is another."""
    if prior_path is None and not is_file(given):
        return gallery_prior(entry_of(str(given)).size)
    beside = Path(given).with_name("prior.npz")
    if prior_path is None and not beside.is_file():
        raise InputError(
            f"schedule {str(given)!r}: the prior that it was made for, prior.npz, is not beside "
            "it; copy it there, or name it with --prior"
        )
    prior = load_prior(prior_path or beside)
    if prior_path is None and prior.hash != schedule.prior_hash:
        made_for = f"was made for {schedule.prior_hash}" if schedule.prior_hash else "names none"
        raise InputError(
            f"prior {str(beside)!r}: hash {prior.hash}, the schedule {made_for}; name the prior "
            "with --prior"
        )
    if prior.pixel_range != schedule.pixel_range:
        raise InputError(
            f"prior: pixel range {prior.pixel_range}, the schedule's is {schedule.pixel_range}"
        )
    return prior
