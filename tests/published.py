"""A tiny SANA with random weights, written by diffusers itself in the exact layout of a published
repository."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = [
    "a cat above two carrots",
    "red heart and blue circle",
    "User Prompt: Enhanced prompt with specific colors, shapes, sizes",
    "detailed visual descriptions suitable for image generation",
]


def tokenizer(words: list[str] = WORDS):
    """A Gemma tokenizer with a small vocabulary learned from `words`, BOS in front."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import GemmaTokenizer

    learner = Tokenizer(models.BPE(byte_fallback=True))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(pattern="▁", behavior="merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    learner.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    import json

    model = json.loads(learner.to_str())["model"]
    made = GemmaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    made._tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    return made


def pipeline(folder: Path, sprint: bool = False, scheduler: str = "dpm"):
    """Write the folder and return diffusers' pipeline over it."""
    import diffusers
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(0)
    words = tokenizer()
    text = Gemma2Model(
        Gemma2Config(
            vocab_size=len(words),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=12,
            query_pre_attn_scalar=12,
            sliding_window=4096,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=32,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=32,
        cross_attention_dim=64,
        caption_channels=24,
        sample_size=8,
        guidance_embeds=sprint,
        qk_norm="rms_norm_across_heads",
    )
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    for module in (transformer, vae):
        for parameter in module.parameters():
            with torch.no_grad():
                parameter.normal_(std=0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5)
    if sprint:
        made = diffusers.SanaSprintPipeline(words, text, vae, transformer, diffusers.SCMScheduler())
    else:
        schedulers = {
            "dpm": lambda: diffusers.DPMSolverMultistepScheduler(
                use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
            ),
            "euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        }
        made = diffusers.SanaPipeline(words, text, vae, transformer, schedulers[scheduler]())
    made.save_pretrained(folder, safe_serialization=True)
    made.set_progress_bar_config(disable=True)
    return made
