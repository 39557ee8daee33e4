"""Full runs as typed functions that return a config; a variant is a few lines of difference."""

from collections.abc import Callable

from diptych.recipes.emoji import emoji, emoji_full, emoji_recover, emoji_small, emoji_verifier
from diptych.recipes.sana import sana_control, sana_curriculum, sana_finetune, sana_lora, sana_small
from diptych.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "emoji": emoji,
    "emoji-full": emoji_full,
    "emoji-small": emoji_small,
    "emoji-recover": emoji_recover,
    "emoji-verifier": emoji_verifier,
    "sana-small": sana_small,
    "sana-curriculum": sana_curriculum,
    "sana-finetune": sana_finetune,
    "sana-lora": sana_lora,
    "sana-control": sana_control,
}

__all__ = [
    "RECIPES",
    "emoji",
    "emoji_full",
    "emoji_recover",
    "emoji_small",
    "emoji_verifier",
    "sana_control",
    "sana_curriculum",
    "sana_finetune",
    "sana_lora",
    "sana_small",
]
