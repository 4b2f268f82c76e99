"""The tokenizer of the pocket models: byte-level BPE, which can encode every text, with markers for dialogue.

Numbers are split into digits. The tokenizer adds no special tokens; `<|endoftext|>` ends every training text and every
generation. Padding is on the left, as batched generation requires.
"""

from collections.abc import Iterable
from typing import Any

from traces.pocket import Tokenizer

END = "<|endoftext|>"
SPECIAL_TOKENS = (END, "<|user|>", "<|assistant|>", "<|pad|>")  # their ids are 0, 1, 2, 3
END_ID = 0
PAD_ID = 3

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '\\n' if not loop.first }}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int, max_positions: int) -> Tokenizer:
    """A tokenizer with `vocabulary` tokens, trained on the texts in order."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast: Any = transformers.PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=core,
        bos_token=END,
        eos_token=END,
        pad_token=SPECIAL_TOKENS[PAD_ID],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_positions,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
