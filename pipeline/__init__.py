"""Ask the teacher once, train students ever after."""

__version__ = "0.1.0"
