"""A Llama of three layers and random weights, with a tokenizer of letters, as a folder and as a GGUF file."""

from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH, HEADS, KEY_HEADS, LAYERS, MLP = 32, 4, 2, 3, 48
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
BEGIN, END = "<|begin|>", "<|end|>"
VOCABULARY = [BEGIN, END, *LETTERS, "\u0120a"]
"""No token is for padding."""


def toy_model(dtype: torch.dtype = torch.float32, **changes) -> LlamaForCausalLM:
    """A model whose weights are large enough for every token to matter."""
    torch.manual_seed(0)
    values = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    return LlamaForCausalLM(LlamaConfig(**(values | changes))).to(dtype).eval()


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, none for padding."""
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate(VOCABULARY)}, [("\u0120", "a")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BEGIN, eos_token=END)


def save_folder(folder: Path) -> LlamaForCausalLM:
    model = toy_model()
    model.save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return model


def save_gguf(path: Path) -> LlamaForCausalLM:
    """Write model and tokenizer in one GGUF file, in the names and the order of rows that llama.cpp uses."""
    model = toy_model()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3, 3, *[1] * (len(VOCABULARY) - 2)])
    writer.add_token_merges(["\u0120 a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = HEADS if "q_proj" in name else KEY_HEADS
            array = array.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
