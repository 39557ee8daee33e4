"""diptych grow: a deeper or wider model, or one of more words, to be trained on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from diptych.commands.arguments import Output, Positional
from diptych.commands.outputs import check_output
from diptych.request import RequestError, check_seed

if TYPE_CHECKING:
    from torch import Tensor

    from diptych.contracts import System


@dataclass(frozen=True, kw_only=True)
class Grow:
    """Make a model deeper, wider or one of more words: it computes what its kept blocks computed, and learns
    on from there."""

    source: Positional[str]
    """'default', a model folder, or the folder of a run, whose optimiser state comes along unless the width
    grows."""
    output: Output
    depth: int | None = None
    """Blocks of the grown model."""
    width: int | None = None
    """Channels of the grown model, a multiple of what they are: each is repeated, the function stays."""
    vocabulary: Path | None = None
    """A text file: every word that it has often becomes one token, which begins as the mean of those that it
    was."""
    keep: int | None = None
    """First blocks that are kept, for the strategy 'partial': all but the last two unless given."""
    strategy: Literal["partial", "cyclic", "replicate"] = "partial"
    """'partial': new blocks change nothing yet; 'cyclic': all blocks over and over; 'replicate': each several
    times in a row."""
    seed: int = 0


def run(command: Grow, console: Console) -> int:
    from diptych.files.lineage import child
    from diptych.files.whole import whole_folder
    from diptych.surgery import grow, growth_plan, widen
    from diptych.training.export import OPTIMISER

    if command.depth is None and command.width is None and command.vocabulary is None:
        raise RequestError(
            "give --depth, the blocks of the grown model, --width, its channels, or --vocabulary, texts with "
            "the words that it is to have"
        )
    if command.depth is None and (command.keep is not None or command.strategy != "partial"):
        raise RequestError(
            "--keep and --strategy say how a model gets deeper; give --depth, the blocks of the grown model"
        )
    check_seed(command.seed)
    check_output(command.output)
    system, optimiser = _opened(command.source)
    said, told = [], f"diptych grow {shlex.quote(command.source)}"
    if command.depth is not None:
        blocks = len(system.model.blocks)
        plan = growth_plan(blocks, command.depth, command.keep, command.strategy)
        system.model = grow(system.model, command.depth, command.keep, command.strategy, command.seed)
        optimiser = _renamed(optimiser, plan)
        new = sum(block is None for block in plan)
        how = f"{command.depth - new} kept, {new} new" if command.strategy == "partial" else command.strategy
        said.append(f"from {blocks} to {command.depth} blocks ({how})")
        kept = "" if command.keep is None else f" --keep {command.keep}"
        told += f" --depth {command.depth}{kept} --strategy {command.strategy}"
    if command.width is not None:
        said.append(f"from {system.model.config.width} to {command.width} channels")
        system.model = widen(system.model, command.width, command.seed)
        told += f" --width {command.width}"
        # it is of the narrow weights
        optimiser = {}
    if command.vocabulary is not None:
        new = _more_words(system, command.vocabulary)
        said.append(f"by {new} words")
        told += f" --vocabulary {shlex.quote(str(command.vocabulary))}"
        # it has no rows for them
        optimiser = {}
    made = f"grown {' and '.join(said)}"
    told += f" --seed {command.seed}"
    system.card = child(system.card, command.source, command.output.name, made, told)
    with whole_folder(command.output) as folder:
        if optimiser:
            from safetensors.torch import save_file

            # before the model, whose card takes the checksums of all that lies beside it
            save_file(dict(optimiser), folder / OPTIMISER)
        system.save(folder)
    console.print(
        f"{command.output}: {made}" + (", optimiser state with it" if optimiser else ""), highlight=False
    )
    return 0


def _opened(source: str) -> tuple[System, Mapping[str, Tensor]]:
    """A model, or what a run has trained so far with the state of its optimisers."""
    from diptych.surgery import lora_weights, merge_lora
    from diptych.systems.registry import open_system, read_run
    from diptych.training.export import exported, optimiser_state

    run = Path(source)
    if not (run / "checkpoints").is_dir():
        return open_system(source), {}
    system = exported(*read_run(run), run, open_system)
    if lora_weights(system.model):
        # what was optimised are the adapters, which end here
        system.model = merge_lora(system.model)
        return system, {}
    return system, optimiser_state(run)


def _more_words(system: Any, path: Path) -> int:
    """Give a model the words of a text file; returns how many are new. Raises ValueError for one that has no
    vocabulary to grow."""
    from diptych.data.foreign import lines
    from diptych.surgery import extend

    tokenizer = getattr(system, "tokenizer", None)
    if tokenizer is None or tokenizer.vocab_size != system.model.config.vocab_size:
        raise ValueError("--vocabulary: this model has no vocabulary that ends with its last token")
    texts = (line.text.decode(errors="replace").strip() for line in lines(path) if line.text is not None)
    system.tokenizer, pieces = tokenizer.grown(texts)
    if not pieces:
        raise ValueError(f"{path} has no word that is new and there often: nothing grows")
    system.model = extend(system.model, pieces)
    return len(pieces)


def _renamed(optimiser: Mapping[str, Tensor], plan: list[int | None]) -> dict[str, Tensor]:
    """State of the old model's parameters under the names that those have in the grown one."""
    from diptych.surgery.blocks import renamed

    state: dict[str, Tensor] = {}
    for key, tensor in optimiser.items():
        owner, name, entry = key.split("|")
        # a block that is repeated takes its state along, once for each
        state |= {f"{owner}|{now}|{entry}": tensor.clone() for now in renamed(name, plan)}
    return state
