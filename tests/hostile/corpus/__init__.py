"""All cases, by group."""

from hostile.corpus import lines, loras, models, options, outputs, pictures, published, runs, sources, words

CASES = [
    case
    for group in (pictures, words, options, lines, sources, models, published, loras, runs, outputs)
    for case in group.CASES
]
