"""The error of this package."""

from synctalklip.errors import SyncTalklipError


class MetricError(SyncTalklipError):
    """Inputs of a metric, an evaluation or a table that do not belong together."""
