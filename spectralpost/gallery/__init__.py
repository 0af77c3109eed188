"""Ready schedules that come with the package, for a natural-image prior: docs/gallery.md.

Reading order: entries, judged. `experiments/gallery.py` builds the files.
"""

from .entries import Entry, gallery_entries, gallery_nearest, gallery_prior, gallery_schedule
from .judged import Scores, holds_between, problem_on, scores_of, tuned_of_each
