"""The tokens that a captioner knows: those of CLIP's vocabulary that the captions use, numbered anew.

The scores of all 49,408 tokens would be most of the work of a small decoder, where a data set may use a few hundred.
"""

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from training.data.loader import Tokenize
from training.losses.caption import IGNORED

PAD, START, END = 0, 1, 2
_FIRST = 3
_CHUNK = 4096


def used_tokens(captions: pa.StringArray, tokenize: Tokenize) -> NDArray[np.int64]:
    """Find the tokens that captions use.

    Args:
        captions: All that training may see, [n].
        tokenize: CLIP's tokenizer.

    Returns:
        Their ids in CLIP's vocabulary, ascending; start and end token are among them, and 0, with which CLIP pads.
    """
    used = np.zeros(SimpleTokenizer().vocab_size, dtype=np.bool_)
    for start in range(0, len(captions), _CHUNK):
        text, _ = tokenize(captions.slice(start, _CHUNK).to_pylist())
        used[text.numpy()] = True
    return np.flatnonzero(used)


class Vocabulary(nn.Module):
    """Translates between CLIP's token ids and the captioner's.

    Attributes:
        clip_ids: CLIP's id of each of ours behind ``PAD``, ``START`` and ``END``, ascending, int64 [V - 3].
    """

    clip_ids: Tensor

    def __init__(self, clip_ids: NDArray[np.int64]) -> None:
        """Number tokens anew.

        Args:
            clip_ids: From :func:`used_tokens`.
        """
        super().__init__()
        tokenizer = SimpleTokenizer()
        self._start, self._end = tokenizer.sot_token_id, tokenizer.eot_token_id
        words = clip_ids[(clip_ids != self._start) & (clip_ids != self._end)]
        self.register_buffer("clip_ids", torch.from_numpy(words))

    def __len__(self) -> int:
        return _FIRST + len(self.clip_ids)

    def number(self, text: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
        """Translate captions for training.

        Args:
            text: CLIP's token ids, each row with an end token, int64 [B, T].
            cut: Whether a caption was longer, bool [B].

        Returns:
            Our ids, ``PAD`` behind the end token, int64 [B, T]; and the same as labels, ``IGNORED`` behind the end
            token, and in its place where the caption was cut and the author had more to say.
        """
        place = torch.arange(text.shape[1], device=text.device)
        end = (text == self._end).long().argmax(dim=1)[:, None]  # CLIP pads with the id of a real token
        ids = torch.searchsorted(self.clip_ids, text) + _FIRST
        ids = torch.where(text == self._start, START, ids)
        ids = torch.where(place == end, END, ids).masked_fill(place > end, PAD)
        unsaid = (place > end) | ((place == end) & cut[:, None])
        return ids, ids.masked_fill(unsaid, IGNORED)

    def spell(self, text: Tensor, tokenizer: SimpleTokenizer) -> list[str]:
        """Turn our ids into captions.

        Args:
            text: Without the start token, int64 [B, T], on the CPU.
            tokenizer: Knows the pieces of words.

        Returns:
            What stands before the end token, without outer blanks.
        """
        words: list[int] = self.clip_ids.tolist()
        rows: list[list[int]] = text.tolist()
        kept = [[words[token - _FIRST] for token in row if token >= _FIRST] for row in rows]
        return [" ".join(tokenizer.decode(row).split()) for row in kept]
