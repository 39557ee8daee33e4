"""A run's EMA weights as a model folder, and sample grids during training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.tokens import TextTokenizer
from diptych.inference import Pipeline, draw
from diptych.inference.sheet import Cell, contact_sheet
from diptych.models.mot import MoT, by_size
from diptych.surgery import write_lora
from diptych.systems import System, U1System
from diptych.systems.lineage import as_parent
from diptych.training import checkpoint
from diptych.training.config import TrainConfig, from_dict

if TYPE_CHECKING:
    # diffusers and transformers come with it, which the default model does not need
    from diptych.systems.sana import SanaSystem
    from diptych.training.sana import SanaJob

OPTIMISER = "optimiser.safetensors"
"""In a model folder: optimiser state that a run which starts from the model takes over."""
PARENT = "parent.json"
"""In the run's folder: what the run started from, as it was named and with its card."""
SAMPLE_PROMPTS = (
    "a cat",
    "a dog and a car",
    "three apples",
    "a purple heart",
    "a cat left of a dog",
    "a red circle and a blue square",
    "a fish above a house",
    "two stars and a tree on a mint background",
    "four bananas",
    "a crown below a yellow heart",
    "a green square and an orange circle",
    "dua kucing di atas satu hati merah",
)


def system_of(
    model: MoT, tokenizer: TextTokenizer, config: TrainConfig, card: dict[str, Any] | None = None
) -> U1System:
    return U1System(model, tokenizer, config.flow, config.world.size, card)


def sample_grid(model: MoT, tokenizer: TextTokenizer, config: TrainConfig, path: Path) -> None:
    """Draw the fixed prompts and write them as one picture."""
    pipeline = Pipeline(system_of(model, tokenizer, config))
    pictures = draw(pipeline.system, [pipeline.plan(prompt, seed=1) for prompt in SAMPLE_PROMPTS])
    contact_sheet([Cell(p, t) for p, t in zip(pictures, SAMPLE_PROMPTS, strict=True)], path)


def export(run: Path, out: Path, command: str, hardware: str) -> System:
    """Write the newest good checkpoint's EMA weights as a model folder, with its card.

    Raises checkpoint.CheckpointError where the run has no whole checkpoint.
    """
    tensors, about = _newest(run, command, hardware)
    if "pictures" in about["recipe"]:
        return _export_sana(run, out, tensors["ema"], about)
    system = _u1(run, tensors["ema"], about)
    system.save(out, torch.float16)
    return system


def exported(run: Path) -> System:
    """The system that a run has trained so far, from the EMA weights; raises as `export`."""
    values = json.loads((run / "config.json").read_text())
    tensors, about = _newest(run, f"diptych train {values['name']}", "not recorded")
    if "pictures" in values:
        from diptych.training.sana import load_job

        return _sana(load_job(run), tensors["ema"], about)
    return _u1(run, tensors["ema"], about)


def optimiser_state(run: Path) -> dict[str, Tensor]:
    """Optimiser state of the newest good checkpoint, as `checkpoint.optimiser_tensors` names it."""
    return _newest(run, "", "")[0]["optimiser"]


def _newest(run: Path, command: str, hardware: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    loaded = checkpoint.load_latest(run / "checkpoints")
    if loaded is None:
        raise checkpoint.CheckpointError(f"{run} has no checkpoint yet")
    tensors, state = loaded
    values = json.loads((run / "config.json").read_text())
    parent = json.loads((run / PARENT).read_text()) if (run / PARENT).is_file() else None
    about = {
        "name": values["name"],
        "licence": "Apache-2.0",
        "command": command + (f" --start {parent['start']}" if parent else ""),
        "hardware": hardware,
        "torch": torch.__version__.split("+")[0],
        "seed": values["seed"],
        "steps": state["step"],
        "seconds": round(state["seconds"]),
        "recipe": values,
        "parents": [parent["card"]] if parent else [],
    }
    return tensors, about


def _u1(run: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> U1System:
    config: TrainConfig = from_dict(TrainConfig, about["recipe"], str(run / "config.json"))
    tokenizer = TextTokenizer.load(run / "tokenizer.json")
    model = MoT(by_size(config.size, tokenizer.vocab_size, config.patch, config.depth))
    model.load_state_dict(weights)
    card = {
        **about,
        "family": "u1",
        "documents": about["steps"] * config.data.documents_per_step,
        "weights": "EMA, stored as float16",
        "data": "emoji world: glyphs of Noto Color Emoji (SIL OFL 1.1), names from Unicode",
    }
    return system_of(model, tokenizer, config, card)


def _sana(job: SanaJob, weights: dict[str, Tensor], about: dict[str, Any]) -> SanaSystem:
    pictures = about["steps"] * job.config.data.pictures_per_step
    parents = [] if job.start is None else [as_parent(job.start.card, "start")]
    card = {
        **about,
        "family": "sana",
        "pictures": pictures,
        "data": job.config.pictures,
        "weights": "EMA",
        "parents": parents,
    }
    return job.system(weights, card)


def _export_sana(run: Path, out: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> System:
    from diptych.training.sana import load_job

    job = load_job(run)
    system = _sana(job, weights, about)
    system.save(out)
    if job.config.lora_rank:
        # beside the merged model: the adapters alone, for use with the model that the run started from
        save_file(write_lora(job.adapters(), "diffusers"), out.with_name(out.name + "-lora.safetensors"))
    return system
