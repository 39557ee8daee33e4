"""Tiny language models that see, towers and published folders, with random weights and words of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}MARK{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<fake_token_around_image>",
    "<global-img>",
    "[IMG]",
    "[/IMG]",
    "<image>",
)
SEEN = "<|vision_start|><|image_pad|><|vision_end|>"


def tokenizer(mark: str = SEEN) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(["a red cat above two blue dogs", "what is in the picture"], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=None
    )
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    made.chat_template = CHAT.replace("MARK", mark)
    return made


def _config(kind: str, words: Any) -> Any:
    import transformers

    number = words.convert_tokens_to_ids
    text: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_window_layers": 3,
        "max_position_embeddings": 512,
        "vocab_size": len(words),
        "pad_token_id": number("<|endoftext|>"),
        "bos_token_id": None,
        "eos_token_id": number("<|im_end|>"),
    }
    turned = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    eyes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    marks = {
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
    }
    qwen = {"depth": 2, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 40, "num_heads": 2}
    if kind == "qwen2_5_vl":
        return transformers.Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": turned},
            vision_config={**qwen, "fullatt_block_indexes": [1], "window_size": 56},
            **marks,
        )
    if kind == "qwen3_vl":
        return transformers.Qwen3VLConfig(
            text_config={**text, "head_dim": 16, "rope_parameters": {**turned, "mrope_interleaved": True}},
            vision_config={**qwen, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
            **marks,
        )
    picture = number("<image>")
    if kind == "internvl":
        sides = {"image_size": [56, 56], "patch_size": [14, 14], "model_type": "internvl_vision"}
        return transformers.InternVLConfig(
            text_config={**text, "model_type": "qwen2"},
            vision_config={**eyes, **sides},
            image_token_id=picture,
            image_seq_length=4,
        )
    if kind in ("idefics3", "smolvlm"):
        made: Any = transformers.Idefics3Config if kind == "idefics3" else transformers.SmolVLMConfig
        sight = eyes if kind == "idefics3" else {**eyes, "model_type": "smolvlm_vision"}
        return made(
            text_config={**text, "model_type": "llama"},
            vision_config=sight,
            image_token_id=picture,
            scale_factor=2,
        )
    if kind == "janus":
        sight = {**eyes, "projection_dim": 64}
        sight.pop("intermediate_size")
        codes = {
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 64,
            "image_token_embed_dim": 64,
            "num_patches": 4,
        }
        return transformers.JanusConfig(
            text_config={**text, "model_type": "llama"},
            vision_config=sight,
            vq_config=codes,
            image_token_id=picture,
        )
    assert kind == "qwen3"
    return transformers.Qwen3Config(**text, head_dim=16)


def language_model(folder: Path, kind: str = "qwen2_5_vl", pictures: bool = False) -> Any:
    """Write a folder of transformers; returns its model."""
    import transformers

    from diptych.encoders.vlm import _kind

    qwen = kind.startswith("qwen")
    words = tokenizer(SEEN if qwen else "<image>")
    torch.manual_seed(0)
    config = _config(kind, words)
    model = _kind(config).from_config(config).eval()
    # several families keep limits of their own there, which a call would warn of
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=words.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=words.convert_tokens_to_ids("<|endoftext|>"),
    )
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    if pictures:
        _pictures(folder, kind)
    return model


def _pictures(folder: Path, kind: str) -> None:
    import transformers

    if kind in ("qwen2_5_vl", "qwen3_vl"):
        patch = {"patch_size": 16} if kind == "qwen3_vl" else {}
        made: Any = transformers.Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112, **patch)
    elif kind == "internvl":
        made = transformers.GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=False)
    else:
        made = transformers.SmolVLMImageProcessorPil(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
        )
    made.save_pretrained(folder)


def queries_dit(channels: int = 32, caption: int = 64) -> Any:
    """A transformer over features with no value at zero."""
    from diptych.models.feature_dit import FeatureDiT, FeatureDiTConfig

    model = FeatureDiT(
        FeatureDiTConfig(
            depth=2, width=48, heads=4, channels=channels, caption_channels=caption, whole_time=True
        )
    )
    return stirred(model)


def stirred(model: Any, seed: int = 0) -> Any:
    """With no parameter at zero, so that every part has its say."""
    generator = torch.Generator().manual_seed(seed)
    model.initialise(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    return model.eval()


def decoder(folder: Path) -> None:
    """An SDXL decoder as diffusers writes it: 32 px, features of 32 channels."""
    import diffusers

    torch.manual_seed(1)
    diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        use_linear_projection=True,
    ).save_pretrained(folder / "unet", variant="bf16")
    diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.13025,
    ).save_pretrained(folder / "vae", variant="bf16")
    diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")


class Published:
    """A folder in the published layout, and what it was written from."""

    def __init__(self, folder: Path) -> None:
        from diptych.models.feature_dit import to_published

        self.folder = folder
        language = folder.parent / "language"
        self.language = language_model(language)
        self.dit = queries_dit()
        self.queries = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(3))
        folder.mkdir(parents=True)
        weights: dict[str, Tensor] = {}
        for name, tensor in self.language.state_dict().items():
            old = name.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)
            weights[old] = tensor.clone()
        weights["model.latent_queries"] = self.queries
        weights |= {f"model.dit.model.{n}": t for n, t in to_published(self.dit.state_dict()).items()}
        weights["model.gen_vision_tower.vision_tower.model.cls_token"] = torch.zeros(1, 1, 32)
        save_file(weights, folder / "model.safetensors")
        config = json.loads((language / "config.json").read_text())
        text = config["text_config"]
        turned = text.pop("rope_parameters")
        values = {
            **{name: value for name, value in text.items() if name not in ("model_type", "dtype")},
            "model_type": "blip3o_qwen",
            "architectures": ["blip3oQwenForCausalLM"],
            "rope_theta": turned.pop("rope_theta"),
            "rope_scaling": turned,
            "vision_config": config["vision_config"],
            "tie_word_embeddings": False,
            "gen_vision_tower": "eva-clip-E-14-plus",
            "n_query": 64,
            **{name: value for name, value in config.items() if name.endswith("token_id")},
        }
        (folder / "config.json").write_text(json.dumps(values))
        words = tokenizer()
        words.chat_template = None
        words.save_pretrained(folder)
        decoder(folder / "diffusion-decoder")


def vision_tower(folder: Path, kind: str = "siglip") -> None:
    """A tower of transformers: pictures of 56 px, 4 x 4 patches of 32 channels."""
    import transformers

    torch.manual_seed(2)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    if kind == "siglip":
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes)).save_pretrained(folder)
    else:
        transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes)).save_pretrained(folder)


def house(folder: Path, side: int = 64) -> None:
    """In folders of their own: a model of ours as `ours`, and as `space` features of a tower that latents
    are drawn from."""
    import published
    from conftest import TINY

    from diptych.data.conversations.tokens import TextTokenizer
    from diptych.encoders.features import open_features
    from diptych.flow import FlowConfig, SamplerConfig
    from diptych.models.linear_dit import LinearDiT, LinearDiTConfig
    from diptych.models.mot import MoT
    from diptych.spaces import load_space
    from diptych.spaces.detokenizers import LatentDetokenizer
    from diptych.spaces.features import FeatureSpace
    from diptych.systems.blip3o.spaces import save_any
    from diptych.systems.u1.system import U1System

    words = TextTokenizer.train(["a red square", "two blue squares", "what is green?"] * 3, 300)
    model = stirred(MoT(replace(TINY, vocab_size=words.vocab_size)))
    flow = FlowConfig(noise_scale_base_tokens=16, sampler=SamplerConfig(num_steps=2))
    U1System(model, words, flow, native=32, card={"name": "toy"}).save(folder / "ours")
    vision_tower(folder / "tower")
    published.pipeline(folder / "pipeline")
    latents, tower = load_space(folder / "pipeline" / "vae"), open_features(folder / "tower")
    sizes = {"channels": latents.channels, "caption_channels": tower.channels}
    decoder = stirred(LinearDiT(LinearDiTConfig(depth=1, width=32, cross_heads=1, **sizes)))
    sampler = SamplerConfig(num_steps=2, shift=1.0, guidance_scale=2.0)
    drawn = LatentDetokenizer(decoder, latents, sampler, side, tower.identity())
    save_any(FeatureSpace(tower, 2, side, detokenizer=drawn), folder / "space")
