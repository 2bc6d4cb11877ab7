"""The towers of an export as ONNX files, and the proof that they compute what PyTorch does.

Each file has one input, whose first axis is the batch and free, and one output of unit norm:

    image.onnx    image  float32 [B, 3, height, width], normalised pixels     ->  image_features  float32 [B, D]
    text.onnx     text   int64   [B, T], token ids, T the model's context     ->  text_features   float32 [B, D]
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from assets.errors import DataError, message
from training.models.dense_export import load_dense
from training.models.export_files import OWN_CONFIG_FILE, read_export_config
from training.models.frozen_export import is_frozen_text_export, load_export

VERIFIED_BATCHES = (1, 2, 3, 7, 16, 35)
"""Sizes of the batches of random inputs on which both engines are compared, 64 inputs in all."""
LIMIT = 1e-4
"""Largest difference between numbers of two unit-norm features that rounding in fp32 may explain."""
_INLINE_BYTES = 1_900_000_000
"""A file of ONNX holds at most 2 GiB; weights beyond that go into a file beside it."""


class Tower(nn.Module):
    """One side of a model, to unit norm.

    Attributes:
        side: ``image`` or ``text``.
    """

    def __init__(self, model: nn.Module, side: str, shape: Sequence[int], vocabulary: int = 0) -> None:
        """Keep the model and what its inputs look like.

        Args:
            model: With ``encode_image`` and, for a text side, ``encode_text``, as open_clip's.
            side: ``image`` or ``text``.
            shape: Of one input: 3, height and width, or the context length.
            vocabulary: Number of token ids, for text.
        """
        super().__init__()
        self.model: Any = model
        self.side = side
        self._shape, self._vocabulary = tuple(shape), vocabulary

    def forward(self, values: Tensor) -> Tensor:
        """Encode pictures, [B, 3, height, width], or token ids, [B, T]; returns [B, D] of unit norm."""
        encode = self.model.encode_image if self.side == "image" else self.model.encode_text
        return encode(values, normalize=True)

    def random_inputs(self, count: int, seed: int) -> Tensor:
        """Draw inputs: pictures of noise, or texts of any length with the end token behind them.

        Args:
            count: How many, B.
            seed: Decides them.

        Returns:
            float32 [B, 3, height, width], about as wide as normalised pixels; or int64 [B, T].
        """
        generator = torch.Generator().manual_seed(seed)
        if self.side == "image":
            return torch.randn(count, *self._shape, generator=generator)
        (length,) = self._shape
        text = torch.randint(1, max(self._vocabulary - 1, 2), (count, length), generator=generator)
        end = torch.randint(1, length, (count, 1), generator=generator)
        places = torch.arange(length)
        # open_clip's end token is the largest id, and reads the text's feature; zeros fill up behind it
        return torch.where(places < end, text, torch.where(places == end, self._vocabulary - 1, 0))


class Towers(NamedTuple):
    """A model in memory, ready to be written.

    Attributes:
        model: In evaluation mode, fp32, on the CPU.
        image: Its image side.
        text: Its text side; None where text is frozen.
        preprocess: What a user needs to know to make inputs, and a cosine into a logit; JSON-serialisable.
    """

    model: nn.Module
    image: Tower
    text: Tower | None
    preprocess: dict[str, Any]

    @property
    def sides(self) -> dict[str, Tower]:
        """The towers that there are, by their side."""
        return {tower.side: tower for tower in (self.image, self.text) if tower is not None}


def load_towers(folder: Path) -> Towers:
    """Load a model folder of any kind.

    Args:
        folder: The model folder.

    Raises:
        DataError: It holds no model, or does not load.
    """
    if is_frozen_text_export(folder):
        stored = read_export_config(folder / OWN_CONFIG_FILE)
        frozen: Any = load_export(folder).model
        size = stored["model_cfg"]["vision_cfg"]["image_size"]
        preprocess = {**stored["preprocess_cfg"], "size": size, "tokenizer": None, **_scale(frozen)}
        return Towers(frozen, _image_tower(frozen, size), None, preprocess)
    dense = load_dense(folder)
    model: Any = dense.model
    length, vocabulary = int(model.context_length), int(model.vocab_size)
    text_config = dense.config["text_cfg"]
    tokenizer = {
        "context_length": length,
        "vocabulary": vocabulary,
        "name": text_config.get("hf_tokenizer_name", "open_clip.tokenizer.SimpleTokenizer"),
        "options": text_config.get("tokenizer_kwargs", {}),
    }
    preprocess = {**dense.preprocess, "tokenizer": tokenizer, **_scale(model)}
    text = Tower(model, "text", (length,), vocabulary).eval()
    return Towers(model, _image_tower(model, dense.preprocess["size"]), text, preprocess)


def _image_tower(model: nn.Module, size: int | Sequence[int]) -> Tower:
    height, width = (size, size) if isinstance(size, int) else size
    return Tower(model, "image", (3, height, width)).eval()


def _scale(model: Any) -> dict[str, float | None]:
    bias = getattr(model, "logit_bias", None)
    scale = model.logit_scale.detach().exp().item()
    return {"logit_scale": scale, "logit_bias": None if bias is None else bias.detach().item()}


def write_tower(tower: Tower, path: Path) -> None:
    """Write one side as ONNX.

    Args:
        tower: The side; in evaluation mode, on the CPU.
        path: The file; weights that are too many for one file go into a second one beside it.
    """
    example = tower.random_inputs(2, seed=0)
    any_torch: Any = torch
    program: Any = any_torch.onnx.export(
        tower,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[tower.side],
        output_names=[f"{tower.side}_features"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )
    _forget_origin(program.model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tower.state_dict().values())
    program.save(path, external_data=size > _INLINE_BYTES)


def _forget_origin(model: Any) -> None:
    """Take out where in which source file each operation came from, which names folders of this machine."""
    for graph in model.graphs():
        for node in graph:
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        graph.metadata_props.clear()


def open_session(path: Path, threads: int) -> Any:
    """Open an ONNX file for the CPU.

    Args:
        path: The file.
        threads: Of its kernels.

    Returns:
        An ``onnxruntime.InferenceSession``.
    """
    any_runtime: Any = onnxruntime
    options = any_runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # idle threads that spin would take cores from whatever runs between two calls
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return any_runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def verify(tower: Tower, path: Path, threads: int) -> float:
    """Compare an ONNX file with the tower on random inputs, in batches of several sizes.

    Args:
        tower: The side that the file was made of.
        path: The file.
        threads: Of onnxruntime.

    Returns:
        The largest absolute difference between two numbers of unit-norm features.

    Raises:
        DataError: It is above :data:`LIMIT`, or not a number.
    """
    session = open_session(path, threads)
    largest = max(_differences(tower, session))
    if largest > LIMIT:
        fix = "do not use the file; try other versions of torch, onnx and onnxscript"
        raise DataError(message(f"{path} computes other features than PyTorch", largest, f"at most {LIMIT:g}", fix))
    return largest


@torch.no_grad()
def _differences(tower: Tower, session: Any) -> Iterator[float]:
    for seed, size in enumerate(VERIFIED_BATCHES, 1):
        values = tower.random_inputs(size, seed)
        expected = tower(values).numpy()
        (found,) = session.run(None, {tower.side: values.numpy()})
        difference = float(np.abs(expected - found).max())
        yield difference if np.isfinite(difference) else float("inf")
