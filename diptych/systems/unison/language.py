"""A language model of transformers that reads requests: its words, what it sees, and one pass over them.

Models that see are those with Qwen2.5-VL's layout; any causal language model with a chat template reads media
as placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from diptych.contracts import BlockFacts
from diptych.encoders.stored import check_stored
from diptych.files import folder as model_folder
from diptych.files.folder import ModelFolderError, check_depth, refuse_code
from diptych.files.weights import open_weights
from diptych.models.meta import without_storage
from diptych.planning.fourteen import padded
from diptych.planning.schema import Request
from diptych.planning.signals import TOKENS

SEES = ("qwen2_5_vl", "qwen2_vl")
"""Model types that are shown pictures."""
_HERE = "@@here@@"
"""Stands in a chat for the user's words."""
_PLACES = re.compile("(<IMGPAD>|<VIDPAD>)")


@dataclass(frozen=True, eq=False)
class Read:
    """What a model reads: ids, and pictures where it sees."""

    ids: tuple[int, ...]
    pixels: Tensor | None = None
    """(patches, values), as its image processor makes them of all pictures."""
    grid: Tensor | None = None
    """(pictures, 3): patches in time, height and width."""

    def followed(self, more: Sequence[int]) -> Read:
        return Read((*self.ids, *more), self.pixels, self.grid)


@dataclass(frozen=True)
class Shape:
    """What is told of the model."""

    depth: int
    width: int
    heads: int

    def widened(self, factor: int) -> NoReturn:
        raise ValueError("a language model of transformers keeps its size")


class Body(nn.Module):
    """The model as one of blocks."""

    facts: ClassVar = BlockFacts(silent=())

    def __init__(self, model: Any) -> None:
        """Raises ValueError for a shape alone, of which surgery would make a model of other size."""
        super().__init__()
        if isinstance(model, Shape):
            raise ValueError("a language model of transformers keeps its blocks")
        self.model = model
        config = model.config.get_text_config()
        self.config = Shape(config.num_hidden_layers, config.hidden_size, config.num_attention_heads)

    @property
    def blocks(self) -> nn.ModuleList:
        found: nn.ModuleList = self.model.get_decoder().layers
        return found


class Language:
    """A language model, frozen but for what a run hangs on it."""

    def __init__(self, model: Any, tokenizer: Any, images: Any = None) -> None:
        """`images`: the image processor of a model that sees."""
        self.model, self.tokenizer, self.images = model.eval().requires_grad_(False), tokenizer, images
        config = model.config
        self.channels = int(config.get_text_config().hidden_size)
        self._before, self._after = self._chat(True)
        self._closed = self._chat(False)[1]
        self._marks: tuple[int, ...] = ()
        if images is not None:
            self._marks = (config.vision_start_token_id, config.image_token_id, config.vision_end_token_id)

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Language:
        """From a transformers folder: safetensors, no code of its own. Raises ModelFolderError for one that
        is not whole or has no chat template."""
        refuse_code(folder)
        if not (folder / "tokenizer.json").is_file():
            raise ModelFolderError(f"{folder} has no tokenizer.json")
        values = model_folder.read_config(folder)
        stored = open_weights(folder)
        check_depth(values, stored, str(folder / "config.json"))
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoTokenizer,
            Qwen2VLImageProcessorPil,
        )

        sees = values.get("model_type") in SEES
        kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            with without_storage():
                empty = kind.from_config(AutoConfig.from_pretrained(folder, **local))
            check_stored(empty, stored.shapes(), str(folder / "config.json"))
            model, found = kind.from_pretrained(
                folder, use_safetensors=True, dtype=dtype or "auto", output_loading_info=True, **local
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            images = Qwen2VLImageProcessorPil.from_pretrained(folder) if sees else None
        except ModelFolderError:
            raise
        # transformers has an error class for each thing that a folder may lack, and some of none of its own
        except Exception as error:
            raise ModelFolderError(f"{folder}: the language model cannot be read ({error})") from error
        if found["missing_keys"]:
            # filled with random numbers otherwise, and only a warning said so
            raise ModelFolderError(f"{folder}: the weights lack {sorted(found['missing_keys'])[0]}")
        if not tokenizer.chat_template:
            raise ModelFolderError(f"{folder}: the tokenizer has no chat template, so it takes no requests")
        return cls(model.to(device), tokenizer, images)

    def save(self, folder: Path) -> None:
        """Write a transformers folder."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        if self.images is not None:
            self.images.save_pretrained(folder)

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.device
        return found

    def _chat(self, open_answer: bool) -> tuple[list[int], list[int]]:
        """Ids before and behind the user's words, with the template's own system part."""
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": _HERE}], tokenize=False, add_generation_prompt=open_answer
        )
        before, found, after = chat.partition(_HERE)
        if not found:
            raise ModelFolderError("the chat template does not hold what a user says")
        return self.ids(before), self.ids(after)

    def ids(self, text: str) -> list[int]:
        """Of a text whose tokens are meant."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def said(self, text: str) -> list[int]:
        """Of a user's text, in which tokens are only text."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def asked(self, request: Request, shown: Sequence[Sequence[np.ndarray]] | None = None) -> Read:
        """A request as a turn that waits for its answer: earlier requests above it, a placeholder for each
        medium and, for a model that sees, its pictures (`shown`, of each medium) behind that."""
        earlier = "".join(f"{turn}\n" for turn in request.turns)
        ids = [*self._before, *self.said(padded(Request(text=earlier), TOKENS))]
        pictures: list[np.ndarray] = []
        medium = 0
        for part in _PLACES.split(padded(request, TOKENS)):
            if not _PLACES.fullmatch(part):
                ids += self.said(part)
                continue
            ids += self.ids(part)
            if self.images is not None and shown is not None:
                for picture in shown[medium]:
                    ids += [self._marks[0], *[self._marks[1]] * self._tokens(picture), self._marks[2]]
                    pictures.append(picture)
            medium += 1
        ids += self._after
        if not pictures:
            return Read(tuple(ids))
        made = self.images(images=pictures, return_tensors="pt")
        return Read(tuple(ids), made["pixel_values"], made["image_grid_thw"])

    def _tokens(self, picture: np.ndarray) -> int:
        height, width = picture.shape[:2]
        patches = self.images.get_number_of_image_patches(height, width, {})
        return int(patches) // self.images.merge_size**2

    def states(self, text: str, pictures: int = 0, clips: int = 0) -> Tensor:
        """Last hidden states (1, T, channels) of a user's turn, behind the final norm and without the first
        token, as published: text and placeholders, no pixels, no answer."""
        ids = [*self._before, *self.said(text)]
        ids += [*self.ids("<IMGPAD>") * pictures, *self.ids("<VIDPAD>") * clips, *self._closed]
        with torch.no_grad():
            self._forget()
            body = self.model.model if hasattr(self.model, "model") else self.model
            found: Tensor = body(input_ids=self._tensor(ids), use_cache=False).last_hidden_state
        return found[:, 1:]

    def logits(self, read: Read) -> Tensor:
        """(T, vocabulary) behind each token; differentiable in what a run hangs on the model."""
        self._forget()
        found: Tensor = self.model(**self._inputs(read), use_cache=False).logits[0]
        return found

    def _inputs(self, read: Read) -> dict[str, Tensor]:
        given = {"input_ids": self._tensor(read.ids)}
        if read.pixels is not None and read.grid is not None:
            given["mm_token_type_ids"] = (given["input_ids"] == self._marks[1]).int()
            given["pixel_values"] = read.pixels.to(self.device, self.model.dtype)
            given["image_grid_thw"] = read.grid.to(self.device)
        return given

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self.device)

    def _forget(self) -> None:
        """Places of the pictures of an earlier pass, which transformers keeps on the model and would add to
        a text without any."""
        body = getattr(self.model, "model", None)
        if hasattr(body, "rope_deltas"):
            body.rope_deltas = None  # type: ignore[union-attr]


class Pass:
    """One pass over what is read, and what is written behind it token by token."""

    def __init__(self, language: Language, read: Read) -> None:
        self.language = language
        language._forget()
        with torch.inference_mode():
            out = language.model(**language._inputs(read), use_cache=True)
        self._cache, self.logits = out.past_key_values, out.logits[0, -1].float()
        # kept with the pass: another one may come between two of its tokens
        self._deltas = getattr(getattr(language.model, "model", None), "rope_deltas", None)

    def write(self, *ids: int) -> None:
        """Go on with these tokens; `logits` (vocabulary,) are those behind the last one."""
        if not ids:
            return
        if self._deltas is not None:
            self.language.model.model.rope_deltas = self._deltas
        with torch.inference_mode():
            out = self.language.model(
                input_ids=self.language._tensor(ids), past_key_values=self._cache, use_cache=True
            )
        self._cache, self.logits = out.past_key_values, out.logits[0, -1].float()
