"""What systems have in common that draw and do not answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np

from diptych.contracts import AnswerLimits
from diptych.data.pictures import resize
from diptych.request import Message, RequestError
from diptych.settings import Settings


class Mute(ABC):
    """Half of a `contracts.System`: questions are refused, pictures are read at the size that they are drawn
    at."""

    @property
    @abstractmethod
    def settings(self) -> Settings: ...

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """A picture (height, width, 3) at a size that the image space can hold."""
        height, width = pixels.shape[:2]
        return resize(pixels, *self.settings.read_size(width, height))

    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]:
        self._refuse()

    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]:
        self._refuse()

    def log_odds(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise RequestError("this model draws; it does not answer")
