"""Model -> model: deeper, shallower, wider, LoRA adapters, frames of other roles, packed and compiled copies
for drawing."""

from diptych.surgery.fast import prepare
from diptych.surgery.frames import with_frames
from diptych.surgery.grow import grow, growth_plan
from diptych.surgery.lora import add_lora, lora_weights, merge_lora
from diptych.surgery.lora_files import merge_adapters, read_lora, write_lora
from diptych.surgery.prune import Importance, kept_blocks, prune
from diptych.surgery.widen import widen

__all__ = [
    "Importance",
    "add_lora",
    "grow",
    "growth_plan",
    "kept_blocks",
    "lora_weights",
    "merge_adapters",
    "merge_lora",
    "prepare",
    "prune",
    "read_lora",
    "widen",
    "with_frames",
    "write_lora",
]
