"""Model -> model: LoRA adapters, frames of other roles, packed and compiled copies for drawing."""

from diptych.surgery.fast import prepare
from diptych.surgery.frames import with_frames
from diptych.surgery.lora import add_lora, lora_weights, merge_lora
from diptych.surgery.lora_files import merge_adapters, read_lora, write_lora

__all__ = ["add_lora", "lora_weights", "merge_adapters", "merge_lora", "prepare", "read_lora", "with_frames", "write_lora"]
