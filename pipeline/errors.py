"""Errors that a user can act on: every message is one sentence or more with what was wrong, its value and what was expected."""


class WhorlError(Exception):
    """Anything that a user's input, file or parameter caused; the command line prints it and exits with status 2."""


class ParamsError(WhorlError):
    """A key of the params file is unknown, missing, of the wrong type, out of range or at odds with another."""


class DataError(WhorlError):
    """A data source is missing, empty, has too few classes or too many unusable images."""


class ClassifierError(WhorlError):
    """A classifier cannot be built, or its checkpoint does not fit it."""


class ArtifactError(WhorlError):
    """A stored artifact is missing, was altered, or comes from something else than it claims."""


class GuardError(WhorlError):
    """A guard cannot be loaded, or was given images that it cannot inspect."""
