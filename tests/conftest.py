"""Shared fixtures: the font, a toy world and a toy model."""

import os

import pytest
import torch

from diptych.data.conversations.tokens import TextTokenizer
from diptych.models.mot import MoT, MoTConfig
from diptych.worlds.emoji import EmojiWorld, FontNotFoundError

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world() -> EmojiWorld:
    try:
        return EmojiWorld()
    except FontNotFoundError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have the emoji font: {error}")
        pytest.skip(str(error))


TINY = MoTConfig(
    vocab_size=300,
    width=48,
    depth=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    ffn_width=64,
    patch=4,
    vision_width=16,
    head="conv",
    head_width=16,
    rope_theta=1e4,
    rope_theta_hw=100.0,
    rope_theta_vision=100.0,
    scalar_features=32,
)


@pytest.fixture
def tiny_model() -> MoT:
    model = MoT(TINY)
    model.initialise(torch.Generator().manual_seed(0))
    for name in ("second.weight", "second.bias"):
        torch.nn.init.normal_(
            model.pixel_head.get_parameter(name), std=0.1, generator=torch.Generator().manual_seed(1)
        )
    return model


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    words = ["a cat above two carrots", "remove the red heart", "how many dogs are there?", "what is this?"]
    return TextTokenizer.train(words * 3, 300)
