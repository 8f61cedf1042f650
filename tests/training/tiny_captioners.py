"""Makes complete folders of captioners with small random weights, tokenizers and all, without any network."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "<image>")
WORDS = ("a", "red", "blue", "green", "boat", "cat", "house", "on", "the", "sea", "what", "describe", "image", "in")
SIDE_PX = 32


def make_tiny_blip(folder: Path) -> Path:
    """Salesforce's BLIP in its own format."""
    torch.manual_seed(1)
    tokenizer = _tokenizer(bos_token="[DEC]")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "encoder_hidden_size": 16,
        "initializer_range": 1.0,
    }
    config = BlipConfig(
        text_config=size | text,
        vision_config=size | {"image_size": SIDE_PX, "patch_size": 8, "initializer_range": 1.0},
        projection_dim=16,
    )
    BlipForConditionalGeneration(config).eval().save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX}), tokenizer).save_pretrained(folder)
    return folder


def make_tiny_florence2(folder: Path) -> Path:
    """Microsoft's Florence-2 as transformers has it itself."""
    torch.manual_seed(2)
    tokenizer = _tokenizer(extra_special_tokens={"image_token": "<image>"})
    bart = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "max_position_embeddings": 256,
        "init_std": 1.0,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.eos_token_id,
        "forced_eos_token_id": tokenizer.eos_token_id,
    }
    davit = {
        "depths": (1, 1),
        "patch_size": (7, 3),
        "patch_stride": (4, 2),
        "patch_padding": (3, 1),
        "patch_prenorm": (False, True),
        "embed_dim": (8, 16),
        "num_heads": (1, 2),
        "num_groups": (1, 2),
        "window_size": 4,
        "drop_path_rate": 0.0,
        "projection_dim": 16,
    }
    config = Florence2Config(
        text_config=bart, vision_config=davit, image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )
    Florence2ForConditionalGeneration(config).eval().save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX}, do_center_crop=False)
    pictures.image_seq_length = (SIDE_PX // 8) ** 2 + 1  # one for each cell, and one for all of them
    Florence2Processor(pictures, tokenizer).save_pretrained(folder)
    return folder


def _tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece()
    special = {
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "bos_token": "[CLS]",
        "sep_token": "[SEP]",
        "cls_token": "[CLS]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=words, **(special | {"eos_token": "[SEP]"} | changes))
