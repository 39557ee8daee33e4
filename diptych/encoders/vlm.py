"""Language models of transformers, most of them with eyes, as backbones: frozen, asked by their own
`generate`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diptych.contracts import AnswerLimits
from diptych.encoders.backbone import Asked
from diptych.encoders.pictures import processor_of
from diptych.encoders.stored import check_stored
from diptych.files.folder import ModelFolderError, check_depth, read_config, refuse_code
from diptych.files.weights import open_weights
from diptych.models.meta import without_storage
from diptych.request import Message, RequestError

MAX_TOKENS = 512
"""Of an answer, unless a limit is given."""
MAX_MEDIA = 8
"""Pictures that one question may bring."""
_HERE = "@@here@@"
"""Stands in a chat for the user's words."""
_UNREAD = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Of a config: what says where it came from, and nothing of what is computed."""


class _Reached(Exception):
    """The language part was about to read."""


class VisionLanguage:
    """A language model with its tokenizer, frozen. See `encoders.backbone.Reader` and `Speaker`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any = None,
        request: str = "{}",
        mark: int | None = None,
    ) -> None:
        """`processor` makes pictures and words into the model's inputs; None: it reads text alone. `request`
        is what a prompt becomes before it is asked, and `mark` a token that ends it. Raises ModelFolderError
        for a tokenizer without a chat template."""
        if not getattr(processor, "chat_template", None) and not tokenizer.chat_template:
            raise ModelFolderError("the tokenizer has no chat template, so the model cannot be asked")
        self.model, self.tokenizer, self.processor = model.eval().requires_grad_(False), tokenizer, processor
        self.request, self.mark = request, mark
        config = model.config.get_text_config()
        self.channels, self.context = int(config.hidden_size), int(config.max_position_embeddings)
        self.depth = int(config.num_hidden_layers)
        self._marks = [mark for mark in tokenizer.get_added_vocab() if len(mark) > 1]
        self._before, self._after = self._chat()

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, **about: Any
    ) -> VisionLanguage:
        """From a transformers folder: safetensors, no code of its own. `about`: `request` and `mark`. Raises
        ModelFolderError for a folder that is not whole, quantised, or without a chat template."""
        refuse_code(folder)
        if not (folder / "tokenizer.json").is_file():
            raise ModelFolderError(f"{folder} has no tokenizer.json")
        values, where = read_config(folder), str(folder / "config.json")
        if "quantization_config" in values:
            raise ModelFolderError(
                f"{where}: the model is quantised, and gradients must go through it; take the whole one"
            )
        stored = open_weights(folder)
        check_depth(values, stored, where)
        from transformers import AutoConfig, AutoTokenizer

        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            kind = _kind(AutoConfig.from_pretrained(folder, **local))
            with without_storage():
                empty = kind.from_config(AutoConfig.from_pretrained(folder, **local))
            check_stored(empty, stored.shapes(), where)
            model, found = kind.from_pretrained(
                folder, use_safetensors=True, dtype=dtype or "auto", output_loading_info=True, **local
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            processor = _processor(folder, tokenizer, model.config)
        except ModelFolderError:
            raise
        # transformers has an error class for each thing that a folder may lack, and some of none of its own
        except Exception as error:
            raise ModelFolderError(f"{folder}: the language model cannot be read ({error})") from error
        if found["missing_keys"]:
            # filled with random numbers otherwise, and only a warning said so
            raise ModelFolderError(f"{folder}: the weights lack {sorted(found['missing_keys'])[0]}")
        try:
            return cls(model.to(device), tokenizer, processor, **about)
        except ModelFolderError as error:
            raise ModelFolderError(f"{folder}: {error}") from error

    def save(self, folder: Path) -> None:
        """Write a transformers folder."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)

    def identity(self) -> str:
        digest = hashlib.sha256(f"{self.request!r} {self.mark}".encode())
        told = {key: value for key, value in self.model.config.to_dict().items() if key not in _UNREAD}
        digest.update(repr(sorted(told.items(), key=str)).encode())
        digest.update(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            # a sum each, not all bytes: billions of weights are only to be told from other ones
            digest.update(tensor.detach().float().sum().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def speaker(self) -> VisionLanguage:
        return self

    @property
    def sees(self) -> bool:
        """Whether it is shown pictures."""
        return self.processor is not None

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.device
        return found

    def _chat(self) -> tuple[str, str]:
        """The chat before and behind the user's words, with the template's own system part."""
        chat = self._templated([{"role": "user", "content": self._content(_HERE, 0)}])
        before, found, after = chat.partition(_HERE)
        if not found:
            raise ModelFolderError("the chat template does not hold what a user says")
        return before, after

    def _content(self, text: str, pictures: int) -> Any:
        """Of a turn, in the form that the template takes."""
        if self.processor is None:
            return text
        return [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]

    def _templated(self, chat: Sequence[Mapping[str, Any]]) -> str:
        owner = self.tokenizer if self.processor is None else self.processor
        made: str = owner.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        return made

    def _plain(self, text: str) -> str:
        """Words of a turn, in which what looks like a mark is broken up: it would else be one."""
        for mark in self._marks:
            if mark in text:
                text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def _ids(self, text: str) -> list[int]:
        """Of a text whose marks are meant; a template writes the first token itself."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def asked(self, text: str, pictures: Sequence[np.ndarray] = ()) -> Asked:
        words = self.request.format(text)
        closing = () if self.mark is None else (self.mark,)
        if not pictures:
            ids = (*self._ids(self._before), *self.tokens(words), *self._ids(self._after), *closing)
            return Asked(ids)
        inputs = self._inputs(
            [{"role": "user", "content": self._content(self._plain(words), len(pictures))}], pictures
        )
        (ids,) = inputs.pop("input_ids").tolist()
        inputs.pop("attention_mask", None)
        return Asked((*ids, *closing), inputs)

    def _inputs(self, chat: Sequence[Mapping[str, Any]], pictures: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """What the model takes for a chat and the pictures in it. Raises RequestError for pictures that it
        does not look at."""
        text = self._templated(chat)
        if not pictures:
            ids = torch.tensor([self._ids(text)])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.processor is None:
            raise RequestError("this model reads text alone, and pictures are attached")
        from PIL import Image

        shown = [Image.fromarray(pixels) for pixels in pictures]
        made = self.processor(text=[text], images=shown, add_special_tokens=False, return_tensors="pt")
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def embedded(self, asked: Asked) -> Tensor:
        ids = torch.tensor([asked.ids], device=self.device)
        if not asked.inputs:
            return self.embed(ids)[0]
        # where pictures go among the words differs from model to model: its own forward does it, and is
        # stopped where the language part would read what came out
        found: list[Tensor] = []

        def keep(_: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
            found.append(named["inputs_embeds"])
            raise _Reached

        hook = self.model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
        inputs = {name: value.to(self.device) for name, value in asked.inputs.items()}
        if "mm_token_type_ids" in inputs:
            behind = len(asked.ids) - inputs["mm_token_type_ids"].shape[1]
            inputs["mm_token_type_ids"] = nn.functional.pad(inputs["mm_token_type_ids"], (0, behind))
        try:
            with torch.no_grad():
                self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs)
        except _Reached:
            pass
        finally:
            hook.remove()
            self._forget()
        return found[0][0]

    def hidden(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self._read(embeddings, mask).last_hidden_state
        return found

    def states(self, embeddings: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        for layer in layers:
            if not -self.depth - 1 <= layer <= self.depth:
                raise ValueError(f"layers must be 0 to {self.depth}, or -1 for the last, got {layer}")
        every = self._read(embeddings, mask, output_hidden_states=True).hidden_states
        return torch.cat([every[layer] for layer in layers], -1)

    def _read(self, embeddings: Tensor, mask: Tensor, **options: Any) -> Any:
        rows, length = mask.shape
        # one step a token, for pictures as well: the published way of drawing, also where answers count
        # places of pictures by rows and columns
        positions = torch.arange(length, device=mask.device)[None].expand(rows, -1)
        return self.model.get_decoder()(
            inputs_embeds=embeddings,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=False,
            **options,
        )

    def _forget(self) -> None:
        """Places of the pictures of an earlier pass, which transformers keeps on the model."""
        body = getattr(self.model, "model", None)
        if hasattr(body, "rope_deltas"):
            body.rope_deltas = None  # type: ignore[union-attr]

    def answer(self, messages: Sequence[Message], limits: AnswerLimits = AnswerLimits()) -> Iterator[str]:
        """The answer by the model's own `generate`, in one piece."""
        inputs = self._asked(messages)
        start = inputs["input_ids"].shape[1]
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if limits.temperature:
            options = {
                "do_sample": True,
                "temperature": limits.temperature,
                "top_p": limits.top_p,
                "top_k": 0,
            }
        allowed = limits.allowed_tokens
        if allowed is not None:
            # what nothing may follow has ended
            end = self.tokenizer.eos_token_id
            options["prefix_allowed_tokens_fn"] = lambda _, ids: list(allowed(ids[start:].tolist())) or [end]
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(limits.seed)
            written = self.model.generate(**inputs, max_new_tokens=limits.max_tokens or MAX_TOKENS, **options)
        self._forget()
        text = self.tokenizer.decode(written[0, start:], skip_special_tokens=True).strip()
        ends = [place for stop in limits.stop if (place := text.find(stop)) >= 0]
        yield text[: min(ends)] if ends else text

    def answers(
        self, conversations: Sequence[Sequence[Message]], limits: AnswerLimits = AnswerLimits()
    ) -> list[str]:
        """One after the other: a batch would round otherwise."""
        return ["".join(self.answer(messages, limits)) for messages in conversations]

    @torch.inference_mode()
    def log_odds(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        words = ("yes", "no")
        forms = [[self.tokens(form)[0] for form in (word, word.capitalize())] for word in words]
        found = []
        for messages in conversations:
            logits = self.model(**self._asked(messages), use_cache=False).logits[0, -1].float()
            self._forget()
            yes, no = (logits.log_softmax(-1)[form].logsumexp(-1) for form in forms)
            found.append(float(yes - no))
        return found

    def _asked(self, messages: Sequence[Message]) -> dict[str, Tensor]:
        pictures = [medium.pixels for message in messages for medium in message.media]
        if len(pictures) > MAX_MEDIA:
            raise RequestError(
                f"{len(pictures)} pictures are attached, but this model looks at {MAX_MEDIA} at most"
            )
        chat = [
            {"role": message.role, "content": self._content(self._plain(message.text), len(message.media))}
            for message in messages
        ]
        inputs = self._inputs(chat, pictures)
        return {name: value.to(self.device) for name, value in inputs.items()}


def _kind(config: Any) -> Any:
    """The class of transformers that answers: with pictures where there is one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def _processor(folder: Path, tokenizer: Any, config: Any) -> Any:
    """The folder's own processor; None for a model that reads text alone."""
    there = any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))
    if not there or not hasattr(config, "vision_config"):
        return None
    found = processor_of(folder, tokenizer, config)
    return found if hasattr(found, "image_processor") else None
