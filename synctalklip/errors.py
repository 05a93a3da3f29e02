"""The errors that a user can mend: one base class, and those that several rooms raise."""


class SyncTalklipError(ValueError):
    """Bad input: the message names the file, says what is wrong with it and what to do."""


class MetricError(SyncTalklipError):
    """Inputs of a metric, an evaluation or a table that do not belong together."""
