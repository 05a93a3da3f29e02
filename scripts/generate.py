"""Make a face speak: python scripts/generate.py face.mp4 speech.wav out.mp4 checkpoint=...

The three names may also be given as video=, audio= and output=.

Many at once: jobs=list.jsonl, or swap.prepared=folder of a prepared corpus, in place of video, audio and output.
"""

from synctalklip.inference import main

if __name__ == "__main__":
    main()
