"""Make a face speak: python scripts/generate.py video=face.mp4 audio=speech.wav output=out.mp4 checkpoint=...

Many at once: jobs=list.jsonl, or swap.prepared=folder of a prepared corpus, in place of video, audio and output.
"""

from synctalklip.inference import main

if __name__ == "__main__":
    main()
