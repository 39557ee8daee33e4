"""An index of captioned pictures and clips as a source of samples: a caption asks for what it is of."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np

from diptych.contracts import BadSample, Picture, Sample, Turn
from diptych.data.captioned.captions import CaptionLaw, choose
from diptych.data.captioned.index import Index, Row
from diptych.data.captioned.loader import is_validation
from diptych.data.conversations.readers import Films, Sizes
from diptych.data.mixture import shuffled


class CaptionedSource:
    """Pictures and clips of an index, each drawn from one of its captions."""

    def __init__(
        self,
        index: Index,
        name: str,
        *,
        seed: int,
        sizes: Sizes,
        films: Films | None = None,
        validation: float = 0.0,
    ) -> None:
        """`films` opens clips; None where none are drawn, and then they are passed over. `validation`: share
        of all, chosen by their bytes, that `kept` has instead. Raises ValueError for an index without
        anything that can be drawn."""
        self.index, self.name, self.seed, self.sizes, self.films = index, name, seed, sizes, films
        self.rows = index.rows if films is None else [*index.rows, *index.clips]
        held = [is_validation(row.sha256, validation) for row in self.rows]
        self.numbers = [n for n, kept in enumerate(held) if not kept]
        self._kept = [n for n, kept in enumerate(held) if kept]
        if not self.numbers:
            clips = f", and {len(index.clips)} clips, which this model does not draw" * (films is None)
            raise ValueError(f"{index.path} holds no usable picture to train on" + clips * bool(index.clips))

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
        """Raises BadSample for what cannot be read any more."""
        place = self.numbers[shuffled(number, len(self), self.seed)]
        row, epoch = self.rows[place], number // len(self)
        chosen = choose(CaptionLaw(), row.captions, row.scores, [self.seed, 5, epoch, place])
        where = f"{self.index.folder / row.id}"
        task = "clip" if row.is_clip else "generate"
        try:
            pixels = (
                self._film(row)
                if row.is_clip
                else self.sizes(self.index.picture(place), task="generate", drawn=True, together=0)
            )
        except BadSample:
            raise
        except ValueError as error:
            raise BadSample(f"{where}: {error}") from error
        turns = (Turn("user", (row.captions[chosen],)), Turn("assistant", (Picture(pixels, drawn=True),)))
        return Sample(turns, task, where)

    def _film(self, row: Row) -> np.ndarray:
        assert self.films is not None
        return self.films(self.index.folder / row.file)

    def texts(self, count: int) -> Iterator[str]:
        """Captions of the first pictures."""
        for place in self.numbers[:count]:
            yield from self.rows[place].captions
