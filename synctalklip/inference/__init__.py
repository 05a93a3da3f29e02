"""Video and speech in, a talking video out: `Synthesizer.from_pretrained(...).generate(video, audio, output)`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synctalklip.inference.command import main
    from synctalklip.inference.options import Options, Report
    from synctalklip.inference.progress import Cancelled
    from synctalklip.inference.synthesize import paste_lower
    from synctalklip.inference.synthesizer import Synthesizer

__all__ = ["Cancelled", "Options", "Report", "Synthesizer", "main", "paste_lower"]

_HOMES = {
    "Cancelled": "progress",
    "Options": "options",
    "Report": "options",
    "Synthesizer": "synthesizer",
    "main": "command",
    "paste_lower": "synthesize",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the command looks at its settings before it loads torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
