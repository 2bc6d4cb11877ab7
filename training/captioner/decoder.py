"""A causal text decoder that attends to image tokens in every layer: pre-norm blocks, tied token embeddings.

x = token + position; x += self(LN x); x += cross(LN x, memory); x += MLP(LN x); logits = LN(x) E^T. While a caption is
written token by token, keys and values of what is there already are kept, and those of the image are computed once for
all its beams.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

KeysValues = tuple[Tensor, Tensor]
"""Both [B, H, T, W / H]."""


class _Attention(nn.Module):
    """Multi-head attention whose keys and values are computed apart."""

    def __init__(self, width: int, heads: int, memory_width: int) -> None:
        super().__init__()
        self._heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """Project what is attended to, [B, T, M]."""
        keys, values = self.key_value(memory).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys_values: KeysValues, causal: bool = False) -> Tensor:
        """Attend from [B, T, W], each place to those up to itself where ``causal``."""
        attended = functional.scaled_dot_product_attention(self._split(self.query(x)), *keys_values, is_causal=causal)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._heads, -1)).transpose(1, 2)


class _Block(nn.Module):
    """Self-attention, cross-attention and a two-layer perceptron, each on normalised input and added to it."""

    def __init__(self, width: int, heads: int, memory_width: int) -> None:
        super().__init__()
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = _Attention(width, heads, width)
        self.cross_attention = _Attention(width, heads, memory_width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Take whole captions, [B, T, W], on."""
        normed = self.self_norm(x)
        x = x + self.self_attention(normed, self.self_attention.keys_values(normed), causal=True)
        return self._rest(x, self.cross_attention.keys_values(memory))

    def step(self, x: Tensor, past: KeysValues, memory: KeysValues) -> tuple[Tensor, KeysValues]:
        """Take the newest place of each beam, [B, M, W], on; ``past`` is [B * M, H, t, W / H]."""
        normed = self.self_norm(x).flatten(0, 1)[:, None]  # [B * M, 1, W]
        keys, values = self.self_attention.keys_values(normed)
        past = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        x = x + self.self_attention(normed, past).view_as(x)
        return self._rest(x, memory), past

    def _rest(self, x: Tensor, memory: KeysValues) -> Tensor:
        x = x + self.cross_attention(self.cross_norm(x), memory)
        return x + self.mlp(self.mlp_norm(x))


@dataclass(slots=True)
class Cache:
    """What need not be computed again.

    Attributes:
        memory: Keys and values of the image, per layer.
        past: Those of the captions so far, per layer, [B * M, H, t, W / H] with M beams per image.
        length: Places so far, t.
    """

    memory: list[KeysValues]
    past: list[KeysValues]
    length: int = 0

    def reorder(self, rows: Tensor) -> None:
        """Let beams go on from others.

        Args:
            rows: Which of the B * M captions each beam continues, int64 [B * M].
        """
        self.past = [(keys[rows], values[rows]) for keys, values in self.past]


class Decoder(nn.Module):
    """Scores the next token of a caption."""

    def __init__(self, sizes: tuple[int, int, int], context_length: int, num_tokens: int, memory_width: int) -> None:
        """Build with fresh weights.

        Args:
            sizes: Layers, width and heads.
            context_length: Places of a caption, T.
            num_tokens: Size of the vocabulary, V.
            memory_width: Of the image tokens, D.
        """
        super().__init__()
        layers, width, self.heads = sizes
        self.token_embedding = nn.Embedding(num_tokens, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.blocks = nn.ModuleList(_Block(width, self.heads, memory_width) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)

    def forward(self, text: Tensor, memory: Tensor) -> Tensor:
        """Score what comes after each place.

        Args:
            text: Token ids, int64 [B, T].
            memory: Image tokens, [B, N, D].

        Returns:
            Logits, [B, T, V].
        """
        x = self.token_embedding(text) + self.positional_embedding[: text.shape[1]]  # [B, T, W]
        for block in self.blocks:
            x = block(x, memory)
        return self._logits(x)

    def start(self, memory: Tensor, beams: int) -> Cache:
        """Prepare to write captions.

        Args:
            memory: Image tokens, [B, N, D].
            beams: Captions per image, M.
        """
        blocks = [block for block in self.blocks if isinstance(block, _Block)]
        images = [block.cross_attention.keys_values(memory) for block in blocks]
        keys = images[0][0]
        empty = keys.new_empty(len(memory) * beams, self.heads, 0, keys.shape[-1])
        return Cache(images, [(empty, empty) for _ in blocks])

    def step(self, text: Tensor, cache: Cache) -> Tensor:
        """Score what comes after one more token of each caption.

        Args:
            text: The newest token of each, int64 [B, M].
            cache: Changed in place.

        Returns:
            Logits, [B, M, V].
        """
        x = self.token_embedding(text) + self.positional_embedding[cache.length]  # [B, M, W]
        for number, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            x, cache.past[number] = block.step(x, cache.past[number], cache.memory[number])
        cache.length += 1
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        return functional.linear(self.final_norm(x), self.token_embedding.weight)
