"""What the comparisons with public implementations rest on is here, whole and small."""

import torch
from golden_files import FOLDER, load, write
from safetensors.torch import load_file


def test_golden_data_stays_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 19_000_000


def test_numbers_of_every_width_come_back(tmp_path):
    row, source = load("u1_dense/packed"), load("growth/source")
    # a mask is one byte wide, positions are eight
    assert row["mask"].dtype == torch.bool
    assert row["positions"].dtype == torch.int64
    assert row["positions"][0].diff().abs().max() < row["positions"].shape[1]
    assert {tensor.dtype for tensor in source.values()} == {torch.bfloat16}
    picture = load("tiny_autoencoders/photograph")["picture"]
    assert torch.equal((picture * 255).round() / 255, picture)
    again = load_file(write("u1_dense/packed", tmp_path / "packed.safetensors"))
    assert all(torch.equal(again[name], tensor) for name, tensor in row.items())
