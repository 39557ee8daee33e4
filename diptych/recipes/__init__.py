"""Full runs as typed functions that return a config; a variant is a few lines of difference."""

from collections.abc import Callable

from diptych.recipes.emoji import emoji, emoji_full
from diptych.recipes.sana import sana_control, sana_curriculum, sana_finetune, sana_lora, sana_small
from diptych.training.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "emoji": emoji, "emoji-full": emoji_full, "sana-small": sana_small, "sana-curriculum": sana_curriculum, "sana-finetune": sana_finetune,
    "sana-lora": sana_lora, "sana-control": sana_control,
}  # fmt: skip

__all__ = ["RECIPES", "emoji", "emoji_full", "sana_control", "sana_curriculum", "sana_finetune", "sana_lora", "sana_small"]
