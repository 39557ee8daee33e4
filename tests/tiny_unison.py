"""Tiny random models in published layouts: Wan-VACE as diffusers writes it, Qwen2.5 and Qwen2.5-VL as
transformers does, and a folder over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = [
    "a cat above two carrots, at night, in the rain",
    "make this picture into a clip of five seconds",
    "text-to-image text-to-clip image-to-clip reference control edit answer",
]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""With a system part in front, as the published template has."""
SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SEEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def words(special: tuple[str, ...], eos: str) -> Any:
    """A byte-level tokenizer with digits by themselves."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d|[^\s\w]+|\s?\w+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(WORDS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=learner, eos_token=eos, pad_token=special[0], additional_special_tokens=list(special)
    )


def wan(folder: Path) -> Any:
    """Write a tiny Wan-VACE and return diffusers' pipeline over it."""
    import diffusers
    from tokenizers import processors
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    tokenizer = words(("<pad>", "</s>"), "</s>")
    # as published: every text ends with the mark, the empty one is that alone
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * 4,
        latents_std=[0.7] * 4,
    )
    transformer = diffusers.WanVACETransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=24,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        vace_layers=[0],
        vace_in_channels=8 + 64,
    )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipeline = diffusers.WanVACEPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae, scheduler=scheduler, transformer=transformer
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return pipeline


def language_model(folder: Path) -> Path:
    """A tiny Qwen2.5, which sees nothing."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    tokenizer = words(MARKS, "<|im_end|>")
    tokenizer.chat_template = SYSTEM + CHAT
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 5,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_window_layers=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder


def seeing_model(folder: Path) -> Path:
    """A tiny Qwen2.5-VL."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    torch.manual_seed(2)
    tokenizer = words((*MARKS, *SEEN), "<|im_end|>")
    tokenizer.chat_template = SYSTEM + CHAT
    tokenizer.save_pretrained(folder)
    number = {token: tokenizer.convert_tokens_to_ids(token) for token in SEEN}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + 5,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_window_layers": 2,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0},
            "initializer_range": 0.3,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 24,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "fullatt_block_indexes": [0],
        },
        tie_word_embeddings=True,
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
        image_token_id=number["<|image_pad|>"],
        video_token_id=number["<|video_pad|>"],
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder, safe_serialization=True)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 16).save_pretrained(folder)
    return folder


def compose(folder: Path, planner: str, generators: list[dict[str, Any]], projector: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    told = {"version": 1, "planner": planner, "projector": projector, "generators": generators}
    (folder / "unison.json").write_text(json.dumps(told))
    return folder


def folders(place: Path) -> Path:
    """A folder with all of them, and `over-plain` and `over-seeing`, which draw with Wan and the default."""
    wan(place / "wan")
    language_model(place / "plain")
    seeing_model(place / "seeing")
    generators = [{"model": "../wan", "projected": True}, {"model": "default"}]
    for name in ("plain", "seeing"):
        compose(place / f"over-{name}", f"../{name}", generators)
    return place
