import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from assets.clustering.rank_sums import cluster_means, fetch_rows, whole_table
from tests.assets.clustering import rank_clusters
from training.engine.distributed import World


def test_fetched_rows_are_exact_and_those_of_other_ranks_zero():
    rows = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([9, 0, 4, 4, 5])
    parts = [fetch_rows(rows[places], places, wanted) for places in (torch.arange(0, 10, 2), torch.arange(1, 10, 2))]
    assert torch.equal(parts[0] + parts[1], rows[wanted])
    assert (parts[0].abs().sum(dim=1) == 0).tolist() == [True, False, False, False, True]
    assert fetch_rows(rows[:0], torch.arange(0), wanted).abs().max() == 0


def test_a_whole_table_has_every_row_at_its_place():
    places = torch.tensor([1, 4, 5])
    table = whole_table(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), places, 7)
    assert table[places].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert table.sum() == 21


def test_means_are_those_of_the_rows_and_zero_without_rows():
    rows = torch.arange(12.0).view(6, 2)
    means = cluster_means(rows, torch.tensor([0, 2, 2, 0, 0, 2]), 4)
    assert means[0].tolist() == rows[[0, 3, 4]].mean(dim=0).tolist()
    assert means[2].tolist() == rows[[1, 2, 5]].mean(dim=0).tolist()
    assert means[[1, 3]].abs().max() == 0


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(tmp_path):
    file = tmp_path / "two.safetensors"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, *torchrun, rank_clusters.__file__, str(file)], check=True, timeout=300, env=env)
    one, two = rank_clusters.results(World(0, 1, torch.device("cpu"))), load_file(file)
    assert (one["all_objectives"].diff() < 0).any()
    assert int((one["part_counts"] == 0).sum()) == int((two["part_counts"] == 0).sum())
    assert one.keys() == two.keys()
    for name, value in one.items():
        exact = not value.is_floating_point()
        assert torch.equal(value, two[name]) if exact else torch.allclose(value, two[name], atol=1e-4, rtol=1e-5), name
