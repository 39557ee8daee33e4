"""What stands before drawing: a contrastive encoder, whose features are drawn in, and a small autoencoder,
whose latents are. Models of their own, trained by the same loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from diptych.contracts import BlockFacts
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.frames import FrameBatch
from diptych.encoders.contrastive import ContrastiveFeatures, as_input, tokens
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.caption_encoder import CaptionEncoderConfig
from diptych.models.contrastive import Contrastive, ContrastiveConfig
from diptych.models.contrastive.model import contrast
from diptych.models.meta import without_storage
from diptych.spaces import LatentSpace, save_space
from diptych.spaces.latents import DiffusersAutoencoder
from diptych.spaces.pixels import to_bytes
from diptych.systems.blip3o.config import BlipStage, BlipTrainConfig, Latents
from diptych.systems.blip3o.job import BlipJob
from diptych.worlds.emoji import EmojiWorld
from diptych.worlds.emoji.source import world_texts

SHOWN, KEPT, WORDS_OF = 12, 256, 2000
TOKENIZER = "tokenizer.json"


class TowerLosses(NamedTuple):
    sums: dict[str, Tensor]
    rows: list[float]

    def by_kind(self, batch: Any) -> dict[str, list[float]]:
        return dict.fromkeys(self.sums, self.rows)


class ContrastTask(nn.Module):
    """Each picture with its own caption against all others of the micro-batch."""

    def __init__(self, model: Contrastive, tokenizer: TextTokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, batch: FrameBatch) -> TowerLosses:
        texts = [prompt.text for prompt in batch.prompts]
        ids, mask = tokens(self.tokenizer, texts, self.model.config.text.max_tokens)
        device = batch.weight.device
        found = self.model.similarities(as_input(batch.pixels[:, 0]), ids.to(device), mask.to(device))
        same = torch.tensor([[one == other for other in texts] for one in texts], device=device)
        losses = contrast(found, same) * batch.weight
        return TowerLosses({"contrast": losses.sum()}, losses.detach().tolist())


class ContrastJob(BlipJob):
    """A vision tower and a text encoder, over pictures with captions."""

    loss_names = ("contrast",)
    model: Contrastive

    def __init__(self, config: BlipTrainConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.tokenizer = self._words(folder / TOKENIZER)
        text = CaptionEncoderConfig(
            vocab_size=self.tokenizer.vocab_size,
            channels=config.text.channels,
            depth=config.text.depth,
            heads=config.text.heads,
            max_tokens=config.text.max_tokens,
        )
        if config.vision.size != config.side:
            raise ValueError(
                f"vision.size must be that of the pictures, {config.side} px, got {config.vision.size}"
            )
        with without_storage():
            self.model = Contrastive(
                ContrastiveConfig(vision=config.vision, text=text, common=config.common)
            ).train()
        self.task = ContrastTask(self.model, self.tokenizer)

    def _words(self, path: Path) -> TextTokenizer:
        """The vocabulary of the captions, learnt once and kept in the run's folder."""
        if path.is_file():
            return TextTokenizer.load(path)
        if self.index is not None:
            texts = [caption for row in self.index.rows for caption in row.captions]
        else:
            texts = world_texts(EmojiWorld(self.config.world), self.config.seed, WORDS_OF)
        return TextTokenizer.train(texts, self.config.text.vocab_size)

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        return (1, 1, 1, 1)

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        return self.model.starting_values(torch.Generator().manual_seed(self.config.seed))

    def describe(self, stage: BlipStage) -> str:
        return f"both towers learn, {sum(p.numel() for p in self.model.parameters()):,} parameters"

    def prepare(self, folder: Path) -> None:
        self.tokenizer.save(folder / TOKENIZER)

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Share of kept pictures that lie nearest to their own caption, or to one that is equal, among so
        many of a step."""
        right = total = 0
        for batch in self.kept(KEPT):
            texts = [prompt.text for prompt in batch.prompts]
            ids, mask = tokens(self.tokenizer, texts, self.model.config.text.max_tokens)
            found = self.model.similarities(
                as_input(batch.pixels[:, 0].to(device)), ids.to(device), mask.to(device)
            )
            chosen = found.argmax(1).tolist()
            right += sum(texts[n] == text for n, text in zip(chosen, texts, strict=True))
            total += len(texts)
        return {"validation": 1 - right / total} if total else {}

    def write(self, folder: Path, out: Path) -> None:
        ContrastiveFeatures(self.model, self.tokenizer).save(folder)


class Autoencoder(nn.Module):
    """A small autoencoder in the layout of diffusers' AutoencoderTiny, which any loader of such a folder
    reads."""

    facts: ClassVar = BlockFacts(silent=())

    def __init__(self, config: Latents) -> None:
        super().__init__()
        import diffusers

        halvings = config.factor.bit_length() - 1
        blocks = (1, *(config.blocks,) * halvings)
        self.config = config
        self.tiny: Any = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(config.width,) * len(blocks),
            decoder_block_out_channels=(config.width,) * len(blocks),
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks[::-1],
            latent_channels=config.channels,
        )
        self.blocks = nn.ModuleList()

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(P, 3, h, w) of -1..1 -> the same pictures decoded from their latents with `noise` on them, and the
        latents."""
        latents = self.tiny.encoder(pixels)
        return self.tiny.decoder(latents + noise), latents

    def starting_values(self, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of every parameter: convolutions that keep the size of what they read, residual
        branches of zero, and pictures that begin gray."""
        last = f"tiny.decoder.layers.{len(self.tiny.decoder.layers) - 1}"
        inputs = {
            name: module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            for name, module in self.named_modules()
            if isinstance(module, nn.Conv2d)
        }
        for name, parameter in self.named_parameters():
            owner, _, kind = name.rpartition(".")
            value = torch.zeros(parameter.shape)
            if owner == last and kind == "bias":
                value.fill_(0.5)
            elif kind == "weight" and not owner.endswith(".conv.4"):
                # a third of the last layer's: its pictures are of 0..1
                size = (2 / inputs[owner]) ** 0.5 * (1 / 3 if owner == last else 1)
                value.normal_(0.0, size, generator=generator)
            yield name, value


class AutoencodeTask(nn.Module):
    """Squared error of the pixels, decoded from latents with a little noise: what draws in them later misses
    them by as much."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: FrameBatch) -> TowerLosses:
        pixels, config = as_input(batch.pixels[:, 0]), self.model.config
        found, latents = self.model(pixels, config.noise * batch.noise[:, 0])
        losses = (found - pixels).float().square().flatten(1).mean(1)
        # weak, so that latents keep the size of the noise that is added to them
        sizes = (latents.float().square() - 1).clamp_min(0).flatten(1).mean(1)
        losses = (losses + 1e-2 * sizes) * batch.weight
        return TowerLosses({"pixels": losses.sum()}, losses.detach().tolist())


class AutoencodeJob(BlipJob):
    """A small autoencoder over pictures."""

    loss_names = ("pixels",)
    model: Autoencoder

    def __init__(self, config: BlipTrainConfig, folder: Path) -> None:
        super().__init__(config, folder)
        if config.side % config.latents.factor:
            raise ValueError(f"latents.factor must divide {config.side} px, got {config.latents.factor}")
        with without_storage():
            self.model = Autoencoder(config.latents).train()
        self.task = AutoencodeTask(self.model)

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        latents = self.config.latents
        return (1, latents.channels, height // latents.factor, width // latents.factor)

    def starting_values(self) -> Iterator[tuple[str, Tensor]]:
        return self.model.starting_values(torch.Generator().manual_seed(self.config.seed))

    def describe(self, stage: BlipStage) -> str:
        return f"an autoencoder of {sum(p.numel() for p in self.model.parameters()):,} parameters learns"

    @torch.no_grad()
    def validate(self, device: torch.device) -> dict[str, float]:
        """Squared error of pixels (-1..1) of kept pictures."""
        errors: list[float] = []
        for batch in self.kept(KEPT // 2):
            pixels = as_input(batch.pixels[:, 0].to(device))
            found, _ = self.model(pixels, torch.zeros_like(batch.noise[:, 0]).to(device))
            errors += (found - pixels).float().square().flatten(1).mean(1).tolist()
        return {"validation": sum(errors) / len(errors)} if errors else {}

    @torch.no_grad()
    def sample(self, path: Path | None) -> None:
        """Kept pictures, and beside each what came back."""
        cells: list[Cell] = []
        for batch in self.kept(SHOWN):
            pixels = batch.pixels[:, 0]
            device = next(self.model.parameters()).device
            found, _ = self.model(as_input(pixels).to(device), torch.zeros_like(batch.noise[:, 0]).to(device))
            for before, after, prompt in zip(
                pixels, to_bytes(found.float().cpu()), batch.prompts, strict=True
            ):
                cells += [
                    Cell(before.permute(1, 2, 0).numpy(), "given"),
                    Cell(after.permute(1, 2, 0).numpy(), prompt.text),
                ]
        if path is not None:
            contact_sheet(cells[: 2 * SHOWN], path)

    @torch.no_grad()
    def write(self, folder: Path, out: Path) -> None:
        """With the scale that makes the latents' deviation over kept pictures 1."""
        latents = [self.model.tiny.encoder(as_input(batch.pixels[:, 0])) for batch in self.kept(KEPT)]
        scale = 1.0 / float(torch.cat(latents).std()) if latents else 1.0
        self.model.tiny.register_to_config(scaling_factor=scale)
        save_space(LatentSpace(DiffusersAutoencoder(self.model.tiny), scale), folder)
