"""Model -> model: LoRA adapters, frames of other roles."""

from diptych.surgery.frames import with_frames
from diptych.surgery.lora import add_lora, lora_weights, merge_lora

__all__ = ["add_lora", "lora_weights", "merge_lora", "with_frames"]
