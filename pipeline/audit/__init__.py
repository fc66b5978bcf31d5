"""A cache examined: whether its labels are what the teacher says (`answers`), and what they say (`statistics`).

`statistics` is imported by name: it needs dask, which those who only ask the teacher again do not wait for.
"""

from pipeline.audit.answers import Answers, answered, ask_again, stored_log_p

__all__ = ["Answers", "answered", "ask_again", "stored_log_p"]
