"""Who says whether a picture shows what was asked: one score a picture, higher is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from diptych.contracts import VERIFY, System, Verifier
from diptych.files.folder import hub_id, locate, refuse_code
from diptych.request import Media, Message, RequestError, Task

KINDS = "self, clip, clip:MODEL or vlm:MODEL"
CLIP = "hf:openai/clip-vit-base-patch32"
BATCH = 16
"""Pictures judged together."""


class YesNo:
    """A model of the house asked in words: log-odds of yes."""

    def __init__(self, system: System, name: str) -> None:
        """Raises RequestError for a model that cannot read pictures."""
        if Task.ANSWER not in system.settings.tasks:
            raise RequestError(
                f"verifier {name!r}: this model draws only, it cannot read pictures; use clip or vlm:MODEL"
            )
        self.system, self.name = system, name

    def score(self, prompt: str, pictures: Sequence[np.ndarray]) -> list[float]:
        question = VERIFY.format(prompt)
        asked = [[Message("user", question, (Media.picture(pixels),))] for pixels in pictures]
        return self.system.log_odds(asked)


class Similarity:
    """Cosine similarity of picture and prompt in the space of a CLIP or SigLIP model, through
    transformers."""

    def __init__(self, folder: str, device: torch.device | str = "cpu") -> None:
        from transformers import AutoModel, AutoProcessor

        self.name = f"clip:{folder}"
        self.model: Any = _load(AutoModel, folder).to(device).eval()
        if not hasattr(self.model, "get_image_features"):
            raise RequestError(
                f"verifier {self.name!r}: {type(self.model).__name__} gives no features of pictures and "
                "texts to compare"
            )
        self.processor: Any = _load(AutoProcessor, folder)

    def score(self, prompt: str, pictures: Sequence[np.ndarray]) -> list[float]:
        given = self.processor(images=_pil(pictures), return_tensors="pt")
        image, text = self.pictures(given["pixel_values"]), self.texts([prompt])
        return torch.nn.functional.cosine_similarity(image, text).tolist()

    @torch.inference_mode()
    def pictures(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D), of any length, of pictures as the processor makes them (B, 3, H, W)."""
        return _features(self.model.get_image_features(pixel_values=pixels.to(self.model.device)))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings (B, D), of any length; a text that is too long is cut."""
        # SigLIP was trained on texts padded to one length, CLIP on texts of their own
        padding = "max_length" if "siglip" in self.model.config.model_type else True
        given = self.processor(text=list(texts), return_tensors="pt", padding=padding, truncation=True)
        given = given.to(self.model.device)
        wanted = {key: value for key, value in given.items() if key in ("input_ids", "attention_mask")}
        return _features(self.model.get_text_features(**wanted))


class VisionLanguageModel:
    """Any picture-and-text model of transformers, asked in words: log-odds of yes as the first word of its
    answer."""

    def __init__(self, folder: str, device: torch.device | str = "cpu") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.name = f"vlm:{folder}"
        self.model: Any = _load(AutoModelForImageTextToText, folder).to(device).eval()
        self.processor: Any = _load(AutoProcessor, folder)
        if not getattr(self.processor, "image_processor", None) or not getattr(
            self.processor, "chat_template", None
        ):
            raise RequestError(
                f"verifier {self.name!r} cannot read pictures in a conversation: it has no image "
                "processor or no chat template"
            )
        self.yes, self.no = self._words("yes"), self._words("no")
        if self.yes & self.no:
            raise RequestError(f"verifier {self.name!r}: yes and no begin with the same token")

    def _words(self, word: str) -> set[int]:
        """First tokens of the ways in which a model writes a word."""
        tokenizer = self.processor.tokenizer
        return {
            tokenizer(form, add_special_tokens=False)["input_ids"][0] for form in (word, word.capitalize())
        }

    @torch.inference_mode()
    def score(self, prompt: str, pictures: Sequence[np.ndarray]) -> list[float]:
        given = self._asked(VERIFY.format(prompt) + " Answer yes or no.", pictures)
        logits = self.model(**given).logits
        # the last real token, counted from the end: processors pad on the left or on the right
        last = given["attention_mask"].shape[1] - 1 - given["attention_mask"].flip(1).argmax(1)
        chances = logits[torch.arange(len(pictures)), last].float().log_softmax(-1)
        # sums of probabilities, so of exponents: a model may spread its yes over several spellings
        yes, no = (chances[:, sorted(words)].logsumexp(-1) for words in (self.yes, self.no))
        return (yes - no).tolist()

    @torch.inference_mode()
    def write(
        self, question: str, picture: np.ndarray, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> tuple[str, int]:
        """What it answers to a question about a picture, and the tokens that were read and written for it."""
        given = self._asked(question, [picture])
        # a generator of its own cannot be handed in; what others draw goes on as if nothing had been drawn
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            chosen = {"temperature": temperature} if temperature > 0 else {}
            written = self.model.generate(
                **given, max_new_tokens=max_tokens, do_sample=temperature > 0, **chosen
            )
        fresh = written[0, given["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(fresh, skip_special_tokens=True), written.shape[1]

    def _asked(self, question: str, pictures: Sequence[np.ndarray]) -> Any:
        """The same question about each picture, as the model reads it."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        given = self.processor(
            text=[text] * len(pictures),
            images=[[p] for p in _pil(pictures)],
            return_tensors="pt",
            padding=True,
        )
        return given.to(self.model.device)


def load_verifier(
    name: str, system: System | None, open_ours: Callable[[str], System | None] = lambda name: None
) -> Verifier:
    """'self' (the drawing model itself), 'clip', 'clip:MODEL', or 'vlm:MODEL': a folder, of transformers or
    of ours, or 'hf:owner/name'.

    `open_ours` opens a model of ours on the device where the verifier is to judge, and gives None for any
    other; those of transformers judge on the device that `system` draws on.

    Raises RequestError for another name, and for a model that cannot judge pictures.
    """
    if name == "self" and system is not None:
        return YesNo(system, name)
    kind, _, model = name.partition(":")
    device = "cpu" if system is None else system.device
    if kind == "clip":
        return Similarity(model or CLIP, device)
    if kind == "vlm" and model:
        # ours first: transformers would fail on such a folder with an error of its own
        ours = open_ours(model)
        return VisionLanguageModel(model, device) if ours is None else YesNo(ours, name)
    raise RequestError(f"there is no verifier {name!r}; choose {KINDS}")


def scores(verifier: Verifier, prompt: str, pictures: Sequence[np.ndarray]) -> list[float]:
    """Scores of any number of pictures, judged in batches.

    Raises RequestError where a verifier gives no number: a score that compares with nothing must not choose.
    """
    found: list[float] = []
    for start in range(0, len(pictures), BATCH):
        found += verifier.score(prompt, pictures[start : start + BATCH])
    if len(found) != len(pictures):
        raise RequestError(
            f"verifier {verifier.name!r} gave {len(found)} scores for {len(pictures)} pictures"
        )
    for number, score in enumerate(found):
        # NaN is the one value that differs from itself; sorting by it would choose at random
        if score != score:
            raise RequestError(
                f"verifier {verifier.name!r} gave NaN for picture {number} of {prompt!r}; it cannot choose"
            )
    return found


def _load(kind: Any, folder: str) -> Any:
    name = hub_id(folder)
    if name is None:
        # transformers would send any name that is no folder to the hub
        refuse_code(locate(folder))
    try:
        # pickled weights and code from the hub are never run
        return kind.from_pretrained(
            folder if name is None else _reached(name),
            trust_remote_code=False,
            **({} if "Processor" in kind.__name__ else {"use_safetensors": True}),
        )
    # transformers has an error class for each thing that a folder may lack, and some of no class of its own
    except Exception as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise RequestError(f"the verifier {folder} could not be loaded ({said[0]})") from error


def _reached(name: str) -> str:
    """A model of the hub; its folder on this machine where the hub cannot be asked. Raises ValueError where
    neither is there."""
    from huggingface_hub import model_info, snapshot_download

    try:
        # asked once: transformers would ask for file after file, six times each, for a minute
        model_info(name, timeout=10)
    # no network, or not allowed to use it: there is an error class for each
    except Exception as error:
        try:
            return snapshot_download(name, local_files_only=True)
        except Exception:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"the hub does not give it, and it is not on this machine: {reason}") from error
    return name


def _features(output: Any) -> torch.Tensor:
    """transformers gave the tensor itself before version 5, and an output that holds it since."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _pil(pictures: Sequence[np.ndarray]) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(pixels) for pixels in pictures]
