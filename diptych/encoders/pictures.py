"""Pictures among the words of a chat, for language models whose own processors want more than is installed:
those of transformers that also take clips need torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
INTERN = ("internvl",)


class ChatPictures:
    """A picture processor and a tokenizer in the form of a processor of transformers: the template puts one
    mark where a picture stands, and as many stand there in the end as the model has embeddings of it."""

    def __init__(
        self, images: Any, tokenizer: Any, mark: str, counts: Callable[[Mapping[str, Any]], list[int]]
    ) -> None:
        """`counts` gives the embeddings of each picture, of what the picture processor has made."""
        self.image_processor, self.tokenizer, self.mark, self.counts = images, tokenizer, mark, counts

    @property
    def chat_template(self) -> Any:
        return self.tokenizer.chat_template

    def apply_chat_template(self, chat: Any, **options: Any) -> str:
        made: str = self.tokenizer.apply_chat_template(chat, **options)
        return made

    def __call__(self, text: Sequence[str], images: Sequence[Any], **_: Any) -> dict[str, Tensor]:
        """Inputs of one text with all its pictures. Raises ValueError where it has another number of
        marks."""
        made = dict(self.image_processor(images=list(images), return_tensors="pt"))
        parts = text[0].split(self.mark)
        counts = self.counts(made)
        if len(parts) != len(counts) + 1:
            raise ValueError(f"the chat has {len(parts) - 1} marks {self.mark}, and {len(counts)} pictures")
        whole = parts[0] + "".join(self.mark * n + part for n, part in zip(counts, parts[1:], strict=True))
        ids = torch.tensor([self.tokenizer(whole, add_special_tokens=False)["input_ids"]])
        (number,) = self.tokenizer.convert_tokens_to_ids([self.mark])
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **({"mm_token_type_ids": (ids == number).int()} if "image_grid_thw" in made else {}),
            # what some processors count besides is no argument of their models
            **{n: v for n, v in made.items() if isinstance(v, Tensor) and n != "num_patches"},
        }

    def save_pretrained(self, folder: Path) -> None:
        self.image_processor.save_pretrained(folder)


def qwen_pictures(images: Any, tokenizer: Any, config: Any) -> ChatPictures:
    """Of Qwen's models: squares of patches are joined to one embedding."""

    def counts(made: Mapping[str, Any]) -> list[int]:
        return [int(grid.prod()) // images.merge_size**2 for grid in made["image_grid_thw"]]

    (mark,) = tokenizer.convert_ids_to_tokens([config.image_token_id])
    return ChatPictures(images, tokenizer, mark, counts)


def intern_pictures(images: Any, tokenizer: Any, config: Any) -> ChatPictures:
    """Of InternVL, each picture as one tile: pictures are not cut into several."""
    images.crop_to_patches = False

    def counts(made: Mapping[str, Any]) -> list[int]:
        return [int(config.image_seq_length)] * len(made["pixel_values"])

    (mark,) = tokenizer.convert_ids_to_tokens([config.image_token_id])
    return ChatPictures(images, tokenizer, mark, counts)


def processor_of(folder: Path, tokenizer: Any, config: Any) -> Any:
    """What prepares a folder's pictures."""
    import transformers

    kind = config.model_type
    images: Any
    if kind in QWEN:
        images = transformers.Qwen2VLImageProcessorPil.from_pretrained(folder)
        return qwen_pictures(images, tokenizer, config)
    if kind in INTERN:
        return intern_pictures(
            transformers.GotOcr2ImageProcessorPil.from_pretrained(folder), tokenizer, config
        )
    if kind == "smolvlm":
        # its words for pictures are those of Idefics3, whose processor takes no clips
        images = transformers.SmolVLMImageProcessorPil.from_pretrained(folder)
        made: Any = transformers.Idefics3Processor
        return made(
            images, tokenizer, image_seq_len=_embeddings(config), chat_template=tokenizer.chat_template
        )
    return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _embeddings(config: Any) -> int:
    """Of one tile of a picture."""
    vision = config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2)
