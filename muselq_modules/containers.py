"""Tell from its container that an audio file was cut, where decoding is silent.

libsndfile reads a WAV or Ogg file up to the cut as if it ended there.
"""

import os
import re

# A size written by a program that streams, and cannot know the length.
STREAMED_SIZE = 0x7FFFF000
# Sloppy writers count a few bytes too many.
SIZE_SLACK = 4096


def chunks_are_cut(log):
    """Whether libsndfile's log says that a chunk goes beyond the file.

    WAV, AIFF, AU and their kin: libsndfile corrects the length in silence.
    """
    for size, real in re.findall(r": (\d+) \(should be (\d+)\)", log):
        if int(size) < STREAMED_SIZE and int(size) - int(real) > SIZE_SLACK:
            return True
    return False


def ogg_is_cut(path):
    """Whether the last Ogg page is incomplete or not marked as the last."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - 2**17)  # a page has at most 65,307 bytes
        file.seek(start)
        tail = file.read()
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return True
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) < length or not page[5] & 4
