"""The one base class of errors that a user can mend."""


class SyncTalklipError(ValueError):
    """Bad input: the message names the file, says what is wrong with it and what to do."""
