"""How a conversation is laid out as tokens: for training, and for what stands before an answer or a picture.

Turns stand between marks; a read picture is <img> tokens </img>. A drawn picture at the end of a sample is
<img> and noisy tokens; one with something after it stands twice, noisy and then clean at the same positions,
with the doubled marks dead as keys (SenseNova-U1, arXiv 2605.12500 section 2.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from diptych.contracts import CLEAN, NOISY, TEXT, Picture, Sample, Turn, Written
from diptych.data.conversations.forms import (
    ANSWER,
    DRAW,
    END_IMAGE,
    END_THINK,
    IMAGE,
    IN_IMAGE,
    PURPOSES,
    STORY,
    THINK,
    Form,
)
from diptych.data.conversations.tokens import NO_LABEL, Document, TextTokenizer


class Template:
    """Lays conversations out as documents: turns of one form, pictures in tokens of `token` px."""

    def __init__(
        self, form: Form, tokenizer: TextTokenizer, token: int, system: Mapping[str, str] | None = None
    ) -> None:
        """`system`: purpose ('answer', 'draw', 'story') -> system text that precedes it, where a conversation
        brings none of its own. Raises ValueError for a tokenizer without the form's marks."""
        if missing := [mark for mark in form.marks if mark not in tokenizer.ids]:
            raise ValueError(f"the tokenizer lacks the marks {', '.join(missing)}")
        self.form, self.tokenizer, self.token, self.system = form, tokenizer, token, dict(system or {})
        self.end, self.pad = tokenizer.ids[form.end], tokenizer.ids[form.pad]
        self.image = tokenizer.ids[IMAGE]

    def write(self, sample: Sample, drop_text: bool = False, drop_pictures: bool = False) -> Document:
        """A whole sample, to learn from: what the assistant says is predicted, what it draws is denoised.

        `drop_text` and `drop_pictures` leave out what the other roles say and show (guidance training).
        Raises ValueError for a picture whose sides are no multiples of a token.
        """
        out = _Writer(self.tokenizer)
        drawn = [picture for picture in sample.pictures if picture.drawn]
        # a picture that nothing follows needs no clean copy: nobody reads it
        last = sample.turns[-1].parts[-1] if sample.turns and sample.turns[-1].parts else None
        for turn in self._turns(sample, drop_text):
            own = turn.role == "assistant"
            # in a story the model itself says where a picture begins, and that all is told
            tells = own and self._tells(turn, sample) and not drop_text
            self._open(out, turn.role)
            if own and not drop_text:
                self._thoughts(out, turn, sample)
            for part in self._thought_apart(turn) if own else turn.parts:
                if isinstance(part, Picture):
                    if part.drawn and not (drop_pictures and part is not drawn[-1]):
                        self._drawn(out, part, sample, tells, twice=tells or part is not last)
                    elif not part.drawn and (own or not drop_pictures):
                        self._read(out, part, sample)
                # what the pass without text draws from has no words of its own either
                elif own and not drop_text:
                    self._said(out, part, predicted=True)
                elif not drop_text:
                    assert isinstance(part, str)
                    out.words(part)
            # after the noisy tokens there is nothing to say: drawing ends by its last step, not by a mark
            if tells or not (isinstance(last, Picture) and last.drawn and turn is sample.turns[-1]):
                spoken = bool(turn.parts) and not isinstance(turn.parts[-1], Picture)
                out.mark(self.end, predicted=tells or (own and spoken and not drop_text))
                out.words(self.form.after_end)
        return out.document(sample.task)

    def answer_prefix(self, sample: Sample) -> Document:
        """Everything before an answer: the turns, and the assistant's opening."""
        out = _Writer(self.tokenizer)
        self._past(out, sample)
        self._open(out, "assistant")
        return out.document(sample.task)

    def drawing_prefix(
        self,
        sample: Sample,
        drop_text: bool = False,
        drop_pictures: bool = False,
        thought: Written | None = None,
        think: bool = False,
    ) -> Document:
        """Everything before a picture that is to be drawn: the turns, the assistant's opening, what it has
        thought, and the mark <img>. The assistant's last turn, if the sample ends in one, is what it has said
        and drawn so far, with `think` its thoughts first; hidden text and pictures are hidden in it too."""
        out = self._begun(sample, drop_text, drop_pictures, thought, STORY if _told(sample) else DRAW, think)
        out.mark(self.image)
        return out.document(sample.task)

    def story_prefix(self, sample: Sample, think: bool = False) -> Document:
        """Everything before the next word of an answer that may hold pictures; the assistant's last turn is
        what it has said and drawn so far. With `think` it begins its thoughts by itself."""
        return self._begun(sample, False, False, None, STORY, think).document(sample.task)

    def thought_prefix(self, sample: Sample) -> Document:
        """Everything before the thoughts that precede a picture."""
        out = _Writer(self.tokenizer)
        self._past(out, sample)
        self._open(out, "assistant")
        out.mark(self.tokenizer.ids[THINK])
        out.words("\n")
        return out.document(sample.task)

    def _begun(
        self,
        sample: Sample,
        drop_text: bool,
        drop_pictures: bool,
        thought: Written | None,
        purpose: str,
        think: bool = False,
    ) -> _Writer:
        out = _Writer(self.tokenizer)
        past, begun = (sample.turns[:-1], sample.turns[-1].parts) if _told(sample) else (sample.turns, ())
        self._past(out, Sample(past, sample.task, sample.origin), drop_text, drop_pictures, purpose)
        self._open(out, "assistant")
        if self.form.thinks and not drop_text and not think:
            out.mark(self.tokenizer.ids[THINK])
            out.words("\n" if thought else "\n\n")
            for token in thought.ids if thought else (self.tokenizer.ids[END_THINK],):
                out.mark(token)
            out.words("\n\n")
        for part in begun:
            if isinstance(part, Picture):
                if not drop_pictures:
                    self._read(out, part, sample)
            elif not drop_text:
                self._said(out, part, predicted=False)
        return out

    def _past(
        self,
        out: _Writer,
        sample: Sample,
        drop_text: bool = False,
        drop_pictures: bool = False,
        purpose: str | None = None,
    ) -> None:
        """Whole turns that nothing is learnt from."""
        for turn in self._turns(sample, drop_text, purpose):
            self._open(out, turn.role)
            for part in turn.parts:
                if isinstance(part, Picture):
                    if not drop_pictures:
                        self._read(out, part, sample)
                elif not drop_text:
                    self._told(out, turn.role, part)
            out.mark(self.end)
            out.words(self.form.after_end)

    def _turns(self, sample: Sample, drop_text: bool, purpose: str | None = None) -> Iterator[Turn]:
        """The turns behind the system text of their purpose; without text, without a system text."""
        told = self.system.get(purpose or PURPOSES.get(sample.task, ANSWER), "")
        if told and not drop_text and not any(turn.role == "system" for turn in sample.turns):
            yield Turn("system", (told,))
        yield from (turn for turn in sample.turns if not (drop_text and turn.role == "system"))

    def _open(self, out: _Writer, role: str) -> None:
        out.mark(self.tokenizer.ids[self.form.role.format(role)])
        out.words(self.form.after_role.format(role))

    def _thoughts(self, out: _Writer, turn: Turn, sample: Sample) -> None:
        """The empty block of thoughts before what is drawn without any; nothing of it is learnt."""
        draws = any(isinstance(part, Picture) and part.drawn for part in turn.parts)
        thought = turn.parts and isinstance(turn.parts[0], str) and turn.parts[0].startswith(THINK)
        if self.form.thinks and not thought and (draws or PURPOSES.get(sample.task) == STORY):
            out.mark(self.tokenizer.ids[THINK])
            out.words("\n\n")
            out.mark(self.tokenizer.ids[END_THINK])
            out.words("\n\n")

    def _thought_apart(self, turn: Turn) -> tuple[str | Picture | Written, ...]:
        """The parts of what the assistant says; thoughts that they begin with stand as a prefix has them."""
        first = turn.parts[0] if turn.parts else None
        if not (
            self.form.thinks and isinstance(first, str) and first.startswith(THINK) and END_THINK in first
        ):
            return turn.parts
        thought, _, rest = first.removeprefix(THINK).partition(END_THINK)
        return (f"{THINK}\n{thought.strip()}\n{END_THINK}\n\n{rest.lstrip()}", *turn.parts[1:])

    def _tells(self, turn: Turn, sample: Sample) -> bool:
        """Whether a turn is text and pictures in turn; a single picture is one only where a model thinks of
        the two as one kind of answer."""
        return PURPOSES.get(sample.task) == STORY and (self.form.thinks or len(turn.parts) > 1)

    def _told(self, out: _Writer, role: str, part: str | Written) -> None:
        """Words that nothing is learnt from."""
        if role == "assistant":
            self._said(out, part, predicted=False)
        else:
            # what others say is text, whatever it looks like: marks are the template's alone
            out.words(str(part))

    def _said(self, out: _Writer, part: str | Written, predicted: bool) -> None:
        """Words of the assistant, in whose text the marks of thoughts are marks."""
        if isinstance(part, Written):
            for token in part.ids:
                out.mark(token, predicted)
        elif self.form.thinks:
            for piece in re.split(f"({THINK}|{END_THINK})", part):
                if piece in (THINK, END_THINK):
                    out.mark(self.tokenizer.ids[piece], predicted)
                else:
                    out.words(piece, predicted)
        else:
            out.words(part, predicted)

    def _read(self, out: _Writer, picture: Picture, sample: Sample) -> None:
        out.mark(self.image)
        out.picture(self._checked(picture, sample), self.token, noisy=False)
        out.mark(self.tokenizer.ids[END_IMAGE])

    def _drawn(self, out: _Writer, picture: Picture, sample: Sample, told: bool, twice: bool) -> None:
        pixels, closing = self._checked(picture, sample), self.tokenizer.ids[END_IMAGE]
        out.mark(self.image, predicted=told)
        # back to the time of <img>: the clean copy stands where the noisy one stood, and what follows goes on
        # as if there were one picture
        start = out.time - 1
        out.picture(pixels, self.token, noisy=True)
        if twice:
            out.mark(closing, dead=True)
            out.time = start
            out.mark(self.image, dead=True)
            out.picture(pixels, self.token, noisy=False)
            out.mark(closing)

    def _checked(self, picture: Picture, sample: Sample) -> np.ndarray:
        height, width = picture.pixels.shape[-3:-1]
        if height % self.token or width % self.token:
            raise ValueError(
                f"{sample.origin or 'sample'}: picture of {width}x{height} px; sides must be multiples of "
                f"{self.token}"
            )
        return picture.pixels


def _told(sample: Sample) -> bool:
    """Whether the assistant has begun."""
    return bool(sample.turns) and sample.turns[-1].role == "assistant"


class _Writer:
    """Tokens of one document, run by run."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self.time = 0
        self._words: list[str] = []
        self._predicted = False
        self._runs: list[tuple[np.ndarray, ...]] = []
        self._copies = 0
        self._clean: list[np.ndarray] = []
        self._noisy: list[np.ndarray] = []

    def words(self, text: str, predicted: bool = False) -> None:
        """Words of the template and of a turn that follow one another are one text to the tokenizer; words
        that are predicted begin anew, as they do when a model writes them."""
        if text and predicted != self._predicted:
            self._flush()
            self._predicted = predicted
        self._words += [text] * bool(text)

    def mark(self, token: int, predicted: bool = False, dead: bool = False) -> None:
        self._flush()
        self._text([token], predicted, dead)

    def picture(self, pixels: np.ndarray, token: int, noisy: bool) -> None:
        """A picture (height, width, 3), or a clip (frames, height, width, 3), whose frames are one copy."""
        self._flush()
        frames = pixels if pixels.ndim == 4 else pixels[None]
        rows, columns = frames.shape[1] // token, frames.shape[2] // token
        count = rows * columns
        # one time for a whole frame; rows and columns place its tokens
        frame, token_of = np.divmod(np.arange(len(frames) * count), count)
        places = np.stack([self.time + frame, *np.divmod(token_of, columns)], 1)
        self._put(
            np.full(len(places), self.tokenizer.ids[IN_IMAGE]),
            NOISY if noisy else CLEAN,
            places,
            self._copies,
        )
        self.time += len(frames)
        shown = [pixels] if noisy else list(frames)
        # a copy has the number of its first frame among all
        self._copies += len(shown)
        (self._noisy if noisy else self._clean).extend(shown)

    def _flush(self) -> None:
        if self._words:
            text, self._words = "".join(self._words), []
            self._text(self.tokenizer.encode(text), self._predicted, False)

    def _text(self, ids: Sequence[int], predicted: bool, dead: bool) -> None:
        places = np.zeros((len(ids), 3), dtype=np.int64)
        places[:, 0] = np.arange(self.time, self.time + len(ids))
        self._put(np.array(ids, dtype=np.int64), TEXT, places, -1, dead, predicted)
        self.time += len(ids)

    def _put(
        self,
        ids: np.ndarray,
        kind: int,
        places: np.ndarray,
        copy: int,
        dead: bool = False,
        predicted: bool = False,
    ) -> None:
        flags = (kind, copy, dead, predicted)
        self._runs.append((ids.astype(np.int64), places, *(np.full(len(ids), flag) for flag in flags)))

    def document(self, task: str) -> Document:
        self._flush()
        empty = np.zeros(0, dtype=np.int64)
        columns = list(zip(*self._runs, strict=True)) or [(empty,), (empty.reshape(0, 3),), *[(empty,)] * 4]
        ids, places, kind, copies, dead, predicted = (np.concatenate(column) for column in columns)
        labels = np.full(len(ids), NO_LABEL, dtype=np.int64)
        told = np.flatnonzero(predicted)
        # a token is predicted from the slot before it; a role mark comes first and is not predicted, so no
        # place wraps round
        labels[told - 1] = ids[told]
        return Document(ids, kind, places, copies, dead.astype(bool), labels, self._clean, self._noisy, task)
