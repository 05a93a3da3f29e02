"""Build what a config names with `_target_`, and let user errors through as they are."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from synctalklip.errors import SyncTalklipError


def build(config: Any, **extra: Any) -> Any:
    """`hydra.utils.instantiate`, but an error that the user can mend keeps its own sentence.

    Raises:
        SyncTalklipError: as raised by what is built.
    """
    try:
        return instantiate(config, **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, SyncTalklipError):
            raise error.__cause__ from None
        raise
