"""The programs: verbs that compose the library and report, nothing more."""
