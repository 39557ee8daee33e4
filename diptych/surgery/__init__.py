"""Model -> model, for every `BlockModel`: deeper, shallower, wider, of more words, LoRA adapters, packed and
compiled copies for drawing. What a model's layers are called, its own facts say; nothing here knows one."""

from diptych.surgery.fast import pack, prepare
from diptych.surgery.grow import grow, growth_plan
from diptych.surgery.lora import add_lora, lora_values, lora_weights, merge_lora
from diptych.surgery.prune import Importance, kept_blocks, prune
from diptych.surgery.vocabulary import extend
from diptych.surgery.widen import widen

__all__ = [
    "Importance",
    "add_lora",
    "extend",
    "grow",
    "growth_plan",
    "kept_blocks",
    "lora_values",
    "lora_weights",
    "merge_lora",
    "pack",
    "prepare",
    "prune",
    "widen",
]
