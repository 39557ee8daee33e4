"""An index of captioned pictures as a source of samples: a caption asks for its picture."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from diptych.contracts import BadSample, Picture, Sample, Turn
from diptych.data.captioned.captions import CaptionLaw, choose
from diptych.data.captioned.index import Index
from diptych.data.captioned.loader import is_validation
from diptych.data.conversations.readers import Sizes
from diptych.data.mixture import shuffled


class CaptionedSource:
    """Pictures of an index, each drawn from one of its captions."""

    def __init__(self, index: Index, name: str, *, seed: int, sizes: Sizes, validation: float = 0.0) -> None:
        """`validation`: share of the pictures, chosen by their bytes, that `kept` has instead. Raises
        ValueError for an index without a usable picture."""
        self.index, self.name, self.seed, self.sizes = index, name, seed, sizes
        held = [is_validation(row.sha256, validation) for row in index.rows]
        self.numbers = [n for n, kept in enumerate(held) if not kept]
        self._kept = [n for n, kept in enumerate(held) if kept]
        if not self.numbers:
            raise ValueError(f"{index.path} holds no usable picture to train on")

    def __len__(self) -> int:
        return len(self.numbers)

    def kept(self) -> CaptionedSource | None:
        """The pictures that are never trained on, as a source of their own; None where there are none."""
        if not self._kept:
            return None
        made = copy.copy(self)
        made.numbers = self._kept
        return made

    def draw(self, number: int) -> Sample:
        """Raises BadSample for a picture that cannot be read any more."""
        place = self.numbers[shuffled(number, len(self), self.seed)]
        row, epoch = self.index.rows[place], number // len(self)
        chosen = choose(CaptionLaw(), row.captions, row.scores, [self.seed, 5, epoch, place])
        where = f"{self.index.folder / row.id}"
        try:
            pixels = self.sizes(self.index.picture(place), task="generate", drawn=True, together=0)
        except BadSample:
            raise
        except ValueError as error:
            raise BadSample(f"{where}: {error}") from error
        turns = (Turn("user", (row.captions[chosen],)), Turn("assistant", (Picture(pixels, drawn=True),)))
        return Sample(turns, "generate", where)

    def texts(self, count: int) -> Iterator[str]:
        """Captions of the first pictures."""
        for place in self.numbers[:count]:
            yield from self.index.rows[place].captions
