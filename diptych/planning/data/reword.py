"""Requests in other words, by any language model of transformers, from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diptych.files.folder import locate, refuse_code
from diptych.request import RequestError

ASK = (
    "Say this request in other words, in its own language. Keep every number, every name and every word in "
    "quotation marks as it is, and all that is to be drawn or changed. Answer with the request alone.\n\n{}"
)
WORDS = 160
"""Tokens of an answer at most."""


class Rewriter:
    """Rewords with a causal language model; the same seed says the same."""

    def __init__(self, folder: Path, seed: int = 0, copies: int = 1) -> None:
        """Raises RequestError for a folder that is no language model."""
        refuse_code(locate(folder))
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            # no pickle, no code of the folder, nothing from the hub
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
            ).eval()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        # transformers has an error class for each thing that a folder may lack, and some of none
        except Exception as error:
            said = str(error).splitlines() or [type(error).__name__]
            raise RequestError(f"{folder}: no language model can be read there ({said[0]})") from error
        self.seed, self.copies, self.asked = seed, copies, 0

    @torch.inference_mode()
    def __call__(self, text: str) -> Sequence[str]:
        """Other wordings of a request; what they keep of it is for others to check."""
        asked = ASK.format(text)
        if getattr(self.tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": asked}]
            asked = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        given = self.tokenizer(asked, return_tensors="pt", add_special_tokens=False)
        self.asked += 1
        # of the request alone, whatever was drawn before
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + self.asked)
            written = self.model.generate(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                do_sample=True,
                temperature=0.9,
                num_return_sequences=self.copies,
                max_new_tokens=WORDS,
                pad_token_id=self.tokenizer.pad_token_id or 0,
            )
        answers = written[:, given["input_ids"].shape[1] :]
        return [answer.strip() for answer in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]
