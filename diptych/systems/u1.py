"""SenseNova-U1 as a system: one native model, pixels in and out, no vision encoder and no VAE (arXiv
2605.12500)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.packing import runs
from diptych.data.pictures import resize
from diptych.data.schema import Picture, Sample, Turn
from diptych.data.tokens import CLEAN, PAD, Document, TextTokenizer, answer_prefix, drawing_prefix
from diptych.flow import FlowConfig, SamplerConfig, guided_velocity, noise_scale, passes_needed, to_velocity
from diptych.models.mot import Cache, Experts, MoT, MoTConfig, Slots, may_see
from diptych.request import Media, Message, Plan, Role, Task
from diptych.spaces import PixelSpace
from diptych.systems import folder as model_folder

FAMILY = "u1"
MAX_ANSWER = 64


@dataclass(frozen=True)
class Condition:
    """All that is constant across denoising steps, for B pictures of one size: one prefix cache per guidance
    pass."""

    caches: dict[str, Cache]
    guidance_scale: float
    image_guidance_scale: float
    guidance_norm: str
    guidance_interval: tuple[float, float]
    scale: float
    """Standard deviation of the noise at this size."""


class U1System:
    """Answers, draws and edits with one mixture of transformers."""

    family = FAMILY
    max_side = 1024
    control = ""
    capabilities = frozenset({Task.ANSWER, Task.TEXT_TO_IMAGE, Task.EDIT})

    def __init__(
        self,
        model: MoT,
        tokenizer: TextTokenizer,
        flow: FlowConfig,
        native: int,
        card: dict[str, Any] | None = None,
    ) -> None:
        """`native` is the side, px, of the pictures that the model was trained on."""
        self.model, self.tokenizer, self.flow, self.native = model.eval(), tokenizer, flow, native
        self.card = card or {}
        self.token = model.config.token
        self.space = PixelSpace(self.token)

    @property
    def sampler(self) -> SamplerConfig:
        return self.flow.sampler

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    def accelerate(self) -> None:
        """Nothing to do: its prefix cache is all that pays at its size."""

    def parts(self) -> dict[str, torch.nn.Module]:
        return dict(self.model.named_children())

    @torch.inference_mode()
    def condition(self, plans: Sequence[Plan], media: Sequence[Sequence[Media]]) -> Condition:
        """Prefixes of settled plans of one size and one guidance, each read once."""
        first = plans[0]
        guidance, image_guidance = first.guidance_scale, first.image_guidance_scale
        if guidance is None or image_guidance is None or not first.width or not first.height:
            raise ValueError("condition() takes settled plans: size and guidance filled in")
        samples = [self._request(plan, pictures) for plan, pictures in zip(plans, media, strict=True)]
        has_pictures = any(s.pictures for s in samples)
        caches = {}
        for kind in passes_needed(guidance, image_guidance, has_pictures):
            documents = []
            for plan, sample in zip(plans, samples, strict=True):
                if kind != "conditional" and plan.negative_prompt:
                    pictures = tuple(sample.pictures) if kind == "picture_only" else ()
                    negative = Sample((Turn("user", (*pictures, plan.negative_prompt)),), "generate")
                    documents.append(drawing_prefix(negative, self.tokenizer, self.token))
                else:
                    dropped = {"drop_text": kind != "conditional", "drop_pictures": kind == "unconditional"}
                    documents.append(drawing_prefix(sample, self.tokenizer, self.token, **dropped))
            caches[kind] = self._prefix(documents)[1]
        sampler = self.sampler
        tokens = first.width * first.height // self.token**2
        return Condition(
            caches,
            guidance,
            image_guidance,
            sampler.guidance_norm,
            sampler.guidance_interval,
            noise_scale(self.flow, tokens),
        )

    @torch.inference_mode()
    def velocity(self, x: Tensor, sigma: float, condition: Condition) -> Tensor:
        """Guided velocity dx/dsigma for noisy pictures x (B, 3, height, width) at one noise level."""
        low, high = condition.guidance_interval
        caches = (
            condition.caches if low <= sigma <= high else {"conditional": condition.caches["conditional"]}
        )
        levels = torch.full((x.shape[0],), sigma, device=x.device)
        scales = torch.full_like(levels, condition.scale)
        velocities = {
            kind: to_velocity(
                self.model.denoise(x, levels, scales, cache).float(), x, levels, self.flow.sigma_min
            )
            for kind, cache in caches.items()
        }
        return guided_velocity(
            velocities,
            condition.guidance_scale,
            condition.image_guidance_scale,
            condition.guidance_norm,
            self.token,
            first_step=sigma == 1.0,
        )

    def _request(self, plan: Plan, media: Sequence[Media]) -> Sample:
        used = [m for m, role in zip(media, plan.inputs, strict=True) if role is not Role.UNUSED]
        return Sample(
            (Turn("user", (*(Picture(self.fit(m.pixels)) for m in used), plan.prompt)),), plan.task.value
        )

    def fit(self, pixels: np.ndarray) -> np.ndarray:
        """A picture at a size that this model reads: its own area, sides multiples of a token."""
        height, width = pixels.shape[:2]
        shrink = min(1.0, (self.native**2 / (width * height)) ** 0.5)
        size = self.space.round_size(round(width * shrink), round(height * shrink))
        return resize(pixels, *size)

    @torch.inference_mode()
    def answer(self, messages: Sequence[Message], max_tokens: int = MAX_ANSWER) -> Iterator[str]:
        """The answer to a conversation, as pieces of text while they come (greedy)."""
        turns = tuple(
            Turn(m.role, (*(Picture(self.fit(x.pixels)) for x in m.media), m.text)) for m in messages
        )
        ids: list[int] = []
        said = ""
        for token in self._greedy(
            answer_prefix(Sample(turns, "answer"), self.tokenizer, self.token), max_tokens
        ):
            ids.append(token)
            text = self.tokenizer.decode(ids)
            yield text[len(said) :]
            said = text

    @torch.inference_mode()
    def answers(self, conversations: Sequence[Sequence[Message]], max_tokens: int = MAX_ANSWER) -> list[str]:
        """Answers to many conversations at once (greedy)."""
        logits, cache = self._first_logits(conversations)
        end = self.tokenizer.ids["<|end|>"]
        tokens = logits.argmax(-1)
        written = [tokens]
        for _ in range(max_tokens - 1):
            if bool((torch.stack(written) == end).any(0).all()):
                break
            state, cache = self.model.extend(self.model.embedding(written[-1]), cache)
            written.append(self.model.text_head(state).argmax(-1))
        table = torch.stack(written, 1).tolist()
        return [self.tokenizer.decode(row[: row.index(end)] if end in row else row) for row in table]

    @torch.inference_mode()
    def log_odds(
        self, conversations: Sequence[Sequence[Message]], yes: str = "yes", no: str = "no"
    ) -> list[float]:
        """log p(yes) - log p(no) of the first token of each answer. Raises ValueError where both begin with
        the same token."""
        first, second = (self.tokenizer.encode(word)[0] for word in (yes, no))
        if first == second:
            raise ValueError(f"{yes!r} and {no!r} begin with the same token in this model's vocabulary")
        logits, _ = self._first_logits(conversations)
        return (logits[:, first] - logits[:, second]).float().tolist()

    def _first_logits(self, conversations: Sequence[Sequence[Message]]) -> tuple[Tensor, Cache]:
        """Logits (B, vocabulary) of the first token of each answer, and the cache to go on with."""
        documents = []
        for messages in conversations:
            turns = tuple(
                Turn(m.role, (*(Picture(self.fit(x.pixels)) for x in m.media), m.text)) for m in messages
            )
            documents.append(answer_prefix(Sample(turns, "answer"), self.tokenizer, self.token))
        hidden, cache = self._prefix(documents)
        lengths = torch.tensor([len(d) for d in documents], device=self.device)
        return self.model.text_head(
            hidden[torch.arange(len(documents), device=self.device), lengths - 1]
        ), cache

    def _greedy(self, document: Document, max_tokens: int) -> Iterator[int]:
        hidden, cache = self._prefix([document])
        state = hidden[:, -1]
        for _ in range(max_tokens):
            token = self.model.text_head(state).argmax(-1)
            if int(token) == self.tokenizer.ids["<|end|>"]:
                return
            yield int(token)
            state, cache = self.model.extend(self.model.embedding(token), cache)

    def _prefix(self, documents: Sequence[Document]) -> tuple[Tensor, Cache]:
        """Read documents, one a row, padded on the right."""
        lengths = [len(d) for d in documents]
        shape = (len(documents), max(lengths))
        ids, kind = np.zeros(shape, dtype=np.int64), np.full(shape, PAD, dtype=np.int64)
        positions, picture = np.zeros((*shape, 3), dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        for row, document in enumerate(documents):
            at = (row, slice(0, len(document)))
            ids[at], kind[at], positions[at], picture[at] = (
                document.ids,
                document.kind,
                document.positions,
                document.picture,
            )
        tensors = [torch.from_numpy(a).to(self.device) for a in (ids, kind, positions, picture)]
        ids_, kind_, positions_, picture_ = tensors
        rows = torch.arange(len(documents), device=self.device)[:, None].expand(shape)
        slots = Slots(
            kind_, positions_, rows, picture_, torch.zeros(shape, dtype=torch.bool, device=self.device)
        )
        und = self.model.embedding(ids_)
        stacks = runs([pixels for d in documents for pixels in d.clean])
        if stacks:
            dtype = und.dtype
            pictures = torch.cat(
                [self.model.embed_clean(self.space.read(s.to(self.device)).to(dtype)) for s in stacks]
            )
            und[kind_ == CLEAN] = pictures
        return self.model.prefix(und, positions_, torch.tensor(lengths, device=self.device), may_see(slots))

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config, tokenizer, weights and card."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder / "tokenizer.json")
        config = {
            "family": FAMILY,
            "native": self.native,
            "model": dataclasses.asdict(self.model.config),
            "flow": dataclasses.asdict(self.flow),
        }
        model_folder.write(folder, config, dict(self.model.state_dict()), self.card, dtype)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> U1System:
        """Read a folder that `save` wrote. Raises ModelFolderError for one that is not whole or of another
        kind."""
        config, weights = model_folder.read(folder)
        if config.get("family") != FAMILY:
            raise model_folder.ModelFolderError(
                f"{folder}: family {config.get('family')!r} is not {FAMILY!r}"
            )
        try:
            model = MoT(_model_config(config["model"]))
            sampler = SamplerConfig(
                **{
                    **config["flow"]["sampler"],
                    "guidance_interval": tuple(config["flow"]["sampler"]["guidance_interval"]),
                }
            )
            flow = FlowConfig(**{**config["flow"], "sampler": sampler})
            model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise model_folder.ModelFolderError(
                f"{folder}: config and weights are not of one {FAMILY} model ({error})"
            ) from error
        tokenizer = TextTokenizer.load(folder / "tokenizer.json")
        return cls(model.to(device), tokenizer, flow, config["native"], model_folder.card(folder))


def _model_config(values: dict[str, Any]) -> MoTConfig:
    experts = {key: Experts(**values[key]) for key in ("und_experts", "gen_experts") if values.get(key)}
    return MoTConfig(**{**values, **experts})
