"""What learns of a planner, apart from the model that it hangs on: adapters (LoRA) on the matrices of its
layers, and the rows of its new tokens, where words come in and where they go out. Vision stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from diptych.planning.signals import TOKENS
from diptych.systems.unison.language import Language


def grow_vocabulary(language: Language) -> None:
    """Add the tokens of plans, the fourteen published ones first, each with the mean of all rows, and untie
    the rows that words come in by from those that they go out by. A model that has them stays as it is."""
    tokenizer, model = language.tokenizer, language.model
    known = tokenizer.get_vocab()
    if all(token in known for token in TOKENS):
        return
    from tokenizers import AddedToken

    fresh = [token for token in TOKENS if token not in known]
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in fresh], special_tokens=True
    )
    rows = model.get_input_embeddings().weight
    if len(tokenizer) > len(rows):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        rows = model.get_input_embeddings().weight
    # said by hand, in every config that may be asked: else they would be tied again when the model is opened
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    head = model.get_output_embeddings()
    if head.weight is rows:
        head.weight = nn.Parameter(rows.detach().clone(), requires_grad=False)
    numbers = tokenizer.convert_tokens_to_ids(fresh)
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, head.weight):
            weight[numbers] = weight[: len(known)].float().mean(0).to(weight)
    model.requires_grad_(False)


class Pair(nn.Module):
    """One adapter: W x + B A x."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # in the adapter's own precision: a frozen model may be in a narrower one
        made: Tensor = self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return made.to(x.dtype)


def adapted(language: Language) -> dict[str, nn.Linear]:
    """The matrices of the language layers by name, in order."""
    decoder = language.model.get_decoder()
    return {
        name: layer
        for name, layer in decoder.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith("layers.")
    }


class Adapters(nn.Module):
    """Hung on a language model by `hang`; without storage until a run gives it some."""

    def __init__(self, language: Language, rank: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.pairs = nn.ModuleList(Pair(layer, rank) for layer in adapted(language).values())
            self.words_in = nn.Parameter(torch.empty(len(TOKENS), language.channels))
            self.words_out = nn.Parameter(torch.empty(len(TOKENS), language.channels))

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """A as Kaiming-uniform draws it, all else zero: the model begins as it is."""
        for name, parameter in self.named_parameters():
            value = torch.zeros(parameter.shape)
            if "lora_A" in name:
                nn.init.kaiming_uniform_(value, a=5**0.5, generator=generator)
            yield name, value

    def hang(self, language: Language) -> None:
        """Let the model compute with what is learnt here; its own weights stay."""
        for pair, layer in zip(self.pairs, adapted(language).values(), strict=True):
            layer.register_forward_hook(lambda _, given, out, pair=pair: out + pair(given[0]))
        numbers = torch.tensor(language.tokenizer.convert_tokens_to_ids(list(TOKENS)))

        def come_in(_: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            here = given[0][..., None] == numbers.to(given[0].device)
            return out + (here.to(self.words_in.dtype) @ self.words_in).to(out.dtype)

        def go_out(_: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            more = given[0].to(self.words_out.dtype) @ self.words_out.T
            return out.index_add(-1, numbers.to(out.device), more.to(out.dtype))

        language.model.get_input_embeddings().register_forward_hook(come_in)
        language.model.get_output_embeddings().register_forward_hook(go_out)

    @torch.no_grad()
    def merge_into(self, language: Language) -> None:
        """Add what was learnt to the weights of a model that nothing hangs on."""
        for pair, layer in zip(self.pairs, adapted(language).values(), strict=True):
            assert isinstance(pair, Pair)
            layer.weight += (pair.lora_B.weight @ pair.lora_A.weight).to(layer.weight)
        numbers = language.tokenizer.convert_tokens_to_ids(list(TOKENS))
        for rows, more in (
            (language.model.get_input_embeddings().weight, self.words_in),
            (language.model.get_output_embeddings().weight, self.words_out),
        ):
            rows[numbers] += more.to(rows)
