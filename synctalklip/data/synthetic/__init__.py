"""The embedded corpus: GRID sentences spoken by espeak-ng, and rendered faces that say them.

`speech` gives sound with phoneme times and turns the times into the movement of the mouth, `identity` and `portrait`
draw who speaks, `render` films it, `corpus` writes clips in the LRS2 layout.
"""
