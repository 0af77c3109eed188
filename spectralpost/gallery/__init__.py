"""Ready schedules that come with the package, for a natural-image prior: docs/gallery.md.

Reading order: entries, judged. `experiments/gallery.py` builds the files.
"""

from .entries import (
    FOLDER,
    GRID,
    TASKS,
    Entry,
    as_json,
    degradation_near,
    entry_name,
    entry_of,
    from_json,
    gallery_entries,
    gallery_nearest,
    gallery_prior,
    gallery_schedule,
    levels_at,
    write_entries,
)
from .judged import (
    Scores,
    gain_of,
    holds_between,
    problem_on,
    published_of,
    scores_of,
    tuned_of,
)
