"""The embedded corpus: GRID sentences spoken by espeak-ng, and rendered faces that say them.

`speech` gives sound with phoneme times, `articulation` turns the times into the movement of the mouth, `identity`
and `portrait` draw who speaks, `render` films it, `corpus` writes clips in the LRS2 layout.
"""

from synctalklip.data.synthetic.articulation import ARTICULATORS, articulate
from synctalklip.data.synthetic.corpus import (
    ClipPlan,
    CorpusError,
    CorpusSettings,
    MadeClip,
    make_clip,
    make_corpus,
    plan_corpus,
    transcript,
)
from synctalklip.data.synthetic.grammar import GRAMMAR, VOCABULARY, grid_sentences, sentence_id
from synctalklip.data.synthetic.identity import Identity, draw_identity, identities
from synctalklip.data.synthetic.mouth import mouth_shape
from synctalklip.data.synthetic.render import render
from synctalklip.data.synthetic.speech import SpeechError, speak

__all__ = [
    "ARTICULATORS",
    "GRAMMAR",
    "VOCABULARY",
    "ClipPlan",
    "CorpusError",
    "CorpusSettings",
    "Identity",
    "MadeClip",
    "SpeechError",
    "articulate",
    "draw_identity",
    "grid_sentences",
    "identities",
    "make_clip",
    "make_corpus",
    "mouth_shape",
    "plan_corpus",
    "render",
    "sentence_id",
    "speak",
    "transcript",
]
