"""The perceptual study (Table 5): people rate videos from 1 to 5 in a page that needs no server.

`make` turns folders of videos into a page with opaque file names and keeps the key beside it; `collect` checks
the files that the participants saved and writes the table.
"""
