"""Video and speech in, a talking video out: `Synthesizer.from_pretrained(...).generate(video, audio, output)`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synctalklip.inference.command import main
    from synctalklip.inference.options import Options, Report
    from synctalklip.inference.synthesizer import Synthesizer
    from synctalklip.progress import Cancelled

__all__ = ["Cancelled", "Options", "Report", "Synthesizer", "main"]

_HOMES = {
    "Cancelled": "synctalklip.progress",
    "Options": "synctalklip.inference.options",
    "Report": "synctalklip.inference.options",
    "Synthesizer": "synctalklip.inference.synthesizer",
    "main": "synctalklip.inference.command",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the command looks at its settings before it loads torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_HOMES[name]), name)
