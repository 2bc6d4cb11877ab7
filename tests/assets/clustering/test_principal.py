from pathlib import Path

import numpy as np
import pytest
import torch

from assets.clustering.principal import principal_components

CASE = np.load(Path(__file__).parents[2] / "fixtures/protoclip/case_a.npz")


def test_coordinates_are_the_published_ones_up_to_sign():
    found = principal_components(torch.from_numpy(CASE["pca_in"]), 5).numpy()
    wanted = CASE["pca_out"]
    signs = np.sign((found * wanted).sum(axis=0))
    assert np.allclose(found * signs, wanted, atol=1e-4)


def test_all_components_keep_every_distance():
    rows = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).double() + 3
    found = principal_components(rows, 6)
    assert torch.allclose(torch.cdist(found, found), torch.cdist(rows, rows), atol=1e-4)
    assert found.mean(dim=0).abs().max() < 1e-4


def test_columns_are_uncorrelated_and_ordered_by_variance():
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 6.0))
    covariance = torch.cov(principal_components(rows.double(), 3).T)
    assert covariance.diagonal().tolist() == sorted(covariance.diagonal().tolist(), reverse=True)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-9


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_the_sign_of_a_direction_is_settled(factor):
    line = torch.linspace(-1, 1, 11)[:, None] * torch.tensor([[2.0, 1.0]]) * factor
    found = principal_components(line, 1)[:, 0]
    # the direction points where its largest entry, the first, grows
    assert torch.allclose(found, line @ torch.tensor([2.0, 1.0]) / 5**0.5, atol=1e-5)
