"""Video and speech in, a talking video out: `Synthesizer.from_pretrained(...).generate(video, audio, output)`."""

from synctalklip.inference.command import main
from synctalklip.inference.options import Options, Report
from synctalklip.inference.progress import Cancelled
from synctalklip.inference.synthesize import paste_lower
from synctalklip.inference.synthesizer import Synthesizer

__all__ = ["Cancelled", "Options", "Report", "Synthesizer", "main", "paste_lower"]
