"""Gemma through transformers: prompts -> hidden states behind a fixed instruction (SANA, arXiv 2410.10629
section 2.4)."""

from __future__ import annotations

import copy
import hashlib
import inspect
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.files.folder import ModelFolderError, check_depth, check_shapes, read_config, refuse_code
from diptych.files.weights import all_finite, open_weights
from diptych.models.meta import without_storage

MAX_TOKENS = 300
"""Text tokens that SANA reads: the first one, and the 299 after the instruction."""


_UNREAD = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Of a config: what says where it came from, and nothing of what is computed."""


def published_instruction() -> str:
    """The instruction that published SANA weights were trained behind: the default of diffusers' own
    pipeline."""
    from diffusers import SanaPipeline

    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return "\n".join(lines)


class GemmaEncoder:
    """Last hidden states of a decoder language model behind a fixed instruction, as published (SANA section
    2.4).

    The instruction is read once: its keys and values are kept, and each prompt only adds its own tokens. What
    is kept of the sequence is its first token and the last 299 positions from the end of the instruction on.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, instruction: str = "", lowercase: bool = True
    ) -> None:
        """`lowercase`: prompts are stripped and lower-cased first, as diffusers does."""
        # eval: with dropout, what is read of a prompt would change from one reading to the next
        self.model, self.tokenizer = model.eval(), tokenizer
        self.instruction, self.lowercase = instruction, lowercase
        config: Any = model.config
        self.channels = int(config.hidden_size)
        self._instruction_ids: list[int] = self._ids(instruction) if instruction else []
        # drawing asks for the null text again and again, and a small data set for its captions
        self._encode_one = lru_cache(maxsize=512)(self._encode_uncached)

    @classmethod
    def load(
        cls, folder: Path, tokenizer: Path, instruction: str, dtype: torch.dtype | None = None
    ) -> GemmaEncoder:
        """From a transformers folder, safetensors only, no code of its own. Raises ValueError where it is not
        whole, or of another size than its config says."""
        for part in dict.fromkeys((folder, tokenizer)):
            refuse_code(part)
        # without it, transformers makes one up that knows no words
        if not (tokenizer / "tokenizer.json").is_file():
            raise ModelFolderError(f"{tokenizer} has no tokenizer.json")
        stored, where = open_weights(folder), str(folder / "config.json")
        check_depth(read_config(folder), stored, where)
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        reading = folder
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            # names and shapes before any memory: the config may be of a larger model
            with without_storage():
                expected = AutoModel.from_config(config, trust_remote_code=False).state_dict()
            # a model that was saved with a head over it names its body, and the head is not read
            shapes = {name.removeprefix("model."): shape for name, shape in stored.shapes().items()}
            shapes.pop("lm_head.weight", None)
            check_shapes({name: tuple(empty.shape) for name, empty in expected.items()}, shapes, where)
            model, found = AutoModel.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=dtype or "auto",
                output_loading_info=True,
            )
            all_finite(model.state_dict().items(), folder)
            reading = tokenizer
            words = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
        except ModelFolderError:
            raise
        # transformers and tokenizers have an error class for each thing that a file may lack, some of them
        # plain Exception
        except Exception as error:
            raise ValueError(f"{reading}: the text encoder cannot be read ({error})") from error
        if found["missing_keys"]:
            # filled with random numbers otherwise, and only a warning said so
            raise ValueError(f"{folder}: the text encoder's weights lack {sorted(found['missing_keys'])[0]}")
        return cls(model, words, instruction)

    def save(self, folder: Path, tokenizer: Path) -> None:
        model: Any = self.model
        model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(tokenizer)

    def identity(self) -> str:
        digest = hashlib.sha256(f"gemma {self.instruction!r} {self.lowercase}".encode())
        config: Any = self.model.config
        told = {key: value for key, value in config.to_dict().items() if key not in _UNREAD}
        digest.update(repr(sorted(told.items(), key=str)).encode())
        digest.update(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            # a sum each, not all bytes: billions of weights are only to be told from other ones
            digest.update(tensor.detach().float().sum().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], instruct: bool = True) -> tuple[Tensor, Tensor]:
        """Hidden states and mask, each prompt read alone. A prompt beyond the limit is cut with a warning
        that names what was cut."""
        # alone and not as a padded batch: a batch rounds otherwise, and caches hold states to the bit
        states = [self._encode_one(prompt, instruct) for prompt in prompts]
        length = max(len(state) for state in states)
        text = torch.stack([nn.functional.pad(state, (0, 0, 0, length - len(state))) for state in states])
        real = (
            torch.arange(length, device=text.device)
            < torch.tensor([len(s) for s in states], device=text.device)[:, None]
        )
        return text, real

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=True)["input_ids"])

    def _encode_uncached(self, prompt: str, instruct: bool) -> Tensor:
        text = prompt.lower().strip() if self.lowercase else prompt
        prefix = self._instruction_ids if instruct else []
        ids = self._ids((self.instruction if instruct else "") + text)
        # the published window: behind the instruction 298 tokens of the prompt fit, as the first token and
        # the instruction's last piece are kept with them
        limit = len(prefix) - 2 + MAX_TOKENS if prefix else MAX_TOKENS
        if len(ids) > limit:
            cut = self.tokenizer.decode(ids[limit:])
            warnings.warn(f"the prompt is longer than {MAX_TOKENS} tokens: {cut!r} was cut", stacklevel=2)
            ids = ids[:limit]
        # the prompt's first letters may merge with the instruction's last piece, so that one is read again
        shared = next(
            (i for i, (ours, given) in enumerate(zip(prefix, ids, strict=False)) if ours != given),
            min(len(prefix), len(ids)),
        )
        shared = min(shared, len(prefix) - 1)
        if shared < 2:
            return self._hidden(ids, None, 0)
        cache, first = self._instruction_cache(shared)
        hidden = self._hidden(ids[shared:], cache, shared)
        # from the instruction's last token on: 299 positions at most, behind the first one
        return torch.cat([first, hidden[max(0, len(prefix) - 1 - shared) :]])

    @lru_cache(maxsize=4)  # noqa: B019 the encoder lives as long as its cache
    def _instruction_cache(self, length: int) -> tuple[Any, Tensor]:
        """Keys and values of the instruction's first `length` tokens, and the first token's hidden state (1,
        channels)."""
        ids = torch.tensor([self._instruction_ids[:length]], device=self._device)
        out = self.model(input_ids=ids, use_cache=True)
        return out.past_key_values, out.last_hidden_state[0, :1]

    def _hidden(self, ids: list[int], cache: Any, start: int) -> Tensor:
        tensor = torch.tensor([ids], device=self._device)
        positions = torch.arange(start, start + len(ids), device=self._device)[None]
        # the model adds to the cache that it is given
        return self.model(
            input_ids=tensor, past_key_values=copy.deepcopy(cache), position_ids=positions
        ).last_hidden_state[0]

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
