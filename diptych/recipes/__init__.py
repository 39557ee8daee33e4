"""Full runs as typed functions that return a TrainConfig; a variant is a few lines of difference."""

from diptych.recipes.emoji import emoji, emoji_full

RECIPES = {"emoji": emoji, "emoji-full": emoji_full}

__all__ = ["RECIPES", "emoji", "emoji_full"]
