"""The recogniser child: native code over untrusted audio, in a process that may die.

Run as `python -m vfindex.indexer.speech.recognizer_child MEMORY_BYTES`. It reads utterances from stdin and writes their
words to stdout, framed by `protocol`, and ends when stdin closes. The only importer of pocketsphinx's decoder.
"""

from __future__ import annotations

import math
import os
import re
import sys
from typing import Any

from pocketsphinx import Decoder

from vfindex.indexer.media import protocol
from vfindex.indexer.media.limits import end_with_parent, limit_cpu, limit_process

MIN_PCM_BYTES = 3200  # 0.1 s: PocketSphinx rejects inputs shorter than its windows; they contain no word
WARM_UP = bytes((n * n * 7919 >> 5) % 251 for n in range(6400))  # 0.2 s of fixed noise
FRAME_S = 0.01  # PocketSphinx analyses 100 frames a second, and gives times in them
# One pass with a bounded search. Measured on 17 questions about speech (nDCG@10; mean lead of the right video's cosine
# over the best wrong one's): 0.91, 0.23. With the second pass 0.84, 0.23 at 1.4 times the cost; 5 words a frame 0.84,
# 0.24 at 0.9; 1,500 states 0.88, 0.20 at 0.7; beams of 1e-40 0.75, 0.17 at 0.9. The default search costs 3.9 times.
# One question more or less is up to 0.06, and these questions also chose: only the larger differences mean something.
SEARCH = {"fwdflat": False, "maxhmmpf": 3000, "maxwpf": 10}

_PRONUNCIATION = re.compile(r"\(\d+\)$")  # "and(2)": the dictionary's second pronunciation of "and"


def recognize(decoder: Any, pcm: bytes) -> list[tuple[str, float, float, float]]:
    """Return (word, start_s, end_s, posterior probability) of one utterance of int16 mono audio at 16 kHz.

    Fillers (silence, noise, sentence marks) are left out. The front end is reset, and a fixed noise brings the scorer
    into one state: PocketSphinx keeps noise and channel estimates and its best densities, so words would depend on
    earlier utterances.
    """
    if len(pcm) < MIN_PCM_BYTES:
        return []
    for sound in (WARM_UP, pcm):
        decoder.reinit_feat()
        decoder.start_utt()
        decoder.process_raw(sound, full_utt=True)  # the whole utterance at once: cepstral means over all of it
        decoder.end_utt()
    words = []
    for part in decoder.seg() or ():
        if part.word[:1] not in "<[+":
            word = _PRONUNCIATION.sub("", part.word)
            probability = part.prob if math.isfinite(part.prob) else 0.0
            words.append((word, part.start_frame * FRAME_S, (part.end_frame + 1) * FRAME_S, probability))
    return words


def main() -> None:
    """Answer utterances until stdin closes."""
    end_with_parent()
    limit_process(int(sys.argv[1]))
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # printing libraries cannot break the framing
    decoder = Decoder(loglevel="FATAL", **SEARCH)
    while True:
        try:
            request, pcm = protocol.unpack(protocol.read_exactly)
            limit_cpu(request["cpu_s"])
            protocol.write_all(out, protocol.pack({"words": recognize(decoder, pcm)}))
        except (EOFError, BrokenPipeError):
            os._exit(0)  # the parent has ended; nothing to clean up


if __name__ == "__main__":
    main()
