"""Records of the supported architectures: FAMILIES, and encoder-decoder ones in SEQ2SEQ. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from paredown.runtime.errors import InputError
from paredown.tasks.base import Task

from ..config import Prune, Stage

STATIC = "paredown-static"  # model_type of the student without layers (static.py)
CONVOLUTIONAL = ("resnet", "convnext")  # pruned by channels; they have no heads, FFN or layers to drop


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps its parts: paths from the model to the blocks, and from a block to its layers."""

    blocks: str
    heads_in: tuple[str, ...]  # linears whose outputs are divided among the heads; missing ones are passed over
    attention_out: str
    attention_norm: str  # the layer norm that the attention's sum goes into (pre_norm: that it comes from)
    up: str  # its outputs are the neurons
    down: str
    ffn_norm: str
    gate: str | None = None  # a second linear beside `up`, of one shape with it, whose outputs gate the neurons
    pre_norm: bool = False
    projections: int = 1  # how many projections share a matrix of heads_in
    gates: int = 1  # how many halves `up` has (2: gated linear unit)
    prunes_heads: bool = True  # each layer its own number; False: something outside the block counts the heads
    shared_in: tuple[str, ...] = ()  # those of heads_in that several heads share: heads are pruned in such groups
    transposed: bool = False  # its layers are Conv1D, linear ones with a transposed matrix
    head_counts: tuple[str, ...] = ()  # attributes of the block that hold the number of heads
    head_size_key: str | None = None  # the config's name for the size of a head, where it has one
    first_stays: bool = False  # the first block is built differently
    width_key: str = "intermediate_size"  # the config's name for the FFN width
    embeddings: str = "embeddings.word_embeddings"  # of the base model
    attention: str = "sdpa"  # the fastest implementation in transformers; "eager" where it has no other
    fuses: bool = True  # ONNX Runtime's optimizer knows its attention
    decoder: bool = False  # it continues texts: each token sees those before it, and there is a cache
    padding: int = 0  # the token that fills short rows, where config.json names none
    first_position: str | int = 0  # of a text's first token; PAD: the padding token's number and one


PAD = "pad"
_BERT = Family(
    blocks="encoder.layer",
    heads_in=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    ffn_norm="output.LayerNorm",
)
_LLAMA = Family(
    blocks="layers",
    heads_in=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.o_proj",
    attention_norm="input_layernorm",
    up="mlp.up_proj",
    gate="mlp.gate_proj",
    down="mlp.down_proj",
    ffn_norm="post_attention_layernorm",
    pre_norm=True,
    prunes_heads=False,  # the cache has one number of heads for all layers: groups are pruned, as many in each
    shared_in=("self_attn.k_proj", "self_attn.v_proj"),
    head_size_key="head_dim",
    embeddings="embed_tokens",
    fuses=False,
    decoder=True,
)

FAMILIES = {
    "bert": _BERT,
    "roberta": replace(_BERT, padding=1, first_position=PAD),
    "electra": _BERT,
    "distilbert": Family(
        blocks="transformer.layer",
        heads_in=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention_out="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        ffn_norm="output_layer_norm",
        width_key="hidden_dim",
    ),
    "mpnet": replace(
        _BERT,
        heads_in=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        attention_out="attention.attn.o",
        attention_norm="attention.LayerNorm",
        prunes_heads=False,  # one relative position bias for all layers has a column for every head
        padding=1,
        first_position=2,  # whatever its padding token is
        attention="eager",
        fuses=False,
    ),
    "deberta-v2": replace(
        _BERT,
        heads_in=tuple(
            f"attention.self.{name}"
            for name in ("query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj")
        ),
        head_counts=("attention.self.num_attention_heads",),
        attention="eager",
        fuses=False,
    ),
    "modernbert": Family(
        blocks="layers",
        heads_in=("attn.Wqkv",),
        attention_out="attn.Wo",
        attention_norm="attn_norm",
        up="mlp.Wi",
        down="mlp.Wo",
        ffn_norm="mlp_norm",
        pre_norm=True,
        projections=3,
        gates=2,
        first_stays=True,
        embeddings="embeddings.tok_embeddings",
        fuses=False,
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "gpt2": Family(
        blocks="h",
        heads_in=("attn.c_attn",),
        attention_out="attn.c_proj",
        attention_norm="ln_1",
        up="mlp.c_fc",
        down="mlp.c_proj",
        ffn_norm="ln_2",
        pre_norm=True,
        projections=3,
        prunes_heads=False,  # config.json has no head size, and the cache needs one number of heads
        transposed=True,
        width_key="n_inner",
        embeddings="wte",
        fuses=False,
        decoder=True,
    ),
    "vit": Family(
        blocks="layers",
        heads_in=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        attention_out="attention.o_proj",
        attention_norm="layernorm_before",
        up="mlp.fc1",
        down="mlp.fc2",
        ffn_norm="layernorm_after",
        pre_norm=True,
        head_size_key="head_dim",
        fuses=False,
    ),
}

# The others that may be students and teachers: the padding token where config.json names none, and the first position.
ELSEWHERE: dict[str, tuple[int, str | int]] = dict.fromkeys(
    ("xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "longformer", "ibert",
     "luke", "xmod", "lilt", "layoutlmv3", "markuplm", "esm"),
    (1, PAD),
)  # fmt: skip


def padding_of(config: dict) -> int:
    """The token that fills short rows, of a config.json."""
    said = config.get("pad_token_id")
    if said is not None:
        return int(said)
    family = FAMILIES.get(kind := config.get("model_type", ""))
    return family.padding if family else ELSEWHERE.get(kind, (0, 0))[0]


def longest_of(config: dict) -> int:
    """The longest input that a config.json allows, in tokens: its positions less those before the first token's."""
    positions = int(config.get("max_position_embeddings") or config.get("n_positions") or 512)
    family = FAMILIES.get(kind := config.get("model_type", ""))
    first = family.first_position if family else ELSEWHERE.get(kind, (0, 0))[1]
    return positions - (padding_of(config) + 1 if isinstance(first, str) else first)


@dataclass(frozen=True)
class Seq2SeqArchitecture:
    """Where an encoder-decoder keeps its parts: paths from the model to the blocks of both halves, and from a block of
    the decoder to its cross-attention's keys and values."""

    encoder: str
    decoder: str
    key: str
    value: str
    depths: tuple[str, str]  # the config's names for the number of blocks
    heads: str  # and for the decoder's number of heads
    first_stays: bool = False  # the first block of each half is built differently


_T5 = Seq2SeqArchitecture(
    encoder="encoder.block",
    decoder="decoder.block",
    key="layer.1.EncDecAttention.k",
    value="layer.1.EncDecAttention.v",
    depths=("num_layers", "num_decoder_layers"),
    heads="num_heads",
    first_stays=True,  # it holds the relative positions of all of them
)

SEQ2SEQ = {
    "t5": _T5,
    "mt5": _T5,
    "marian": Seq2SeqArchitecture(
        encoder="model.encoder.layers",
        decoder="model.decoder.layers",
        key="encoder_attn.k_proj",
        value="encoder_attn.v_proj",
        depths=("encoder_layers", "decoder_layers"),
        heads="decoder_attention_heads",
    ),
}


def check_pruning(kind: str, settings: Stage) -> None:
    """InputError for pruning that this architecture does not support, before anything is measured."""
    parts, layers = FAMILIES.get(kind), getattr(settings, "layers", None)
    if isinstance(settings, Prune):
        _check_channels(kind, settings)
    if parts is None:
        return
    if parts.first_stays and isinstance(layers, list) and 0 not in layers:
        raise InputError(f"layers: the first layer of a '{kind}' model has to stay, {layers} drops it")
    if not isinstance(settings, Prune) or settings.heads == 1:
        return
    if not parts.prunes_heads and not parts.shared_in:
        raise InputError(f"head pruning is not supported for '{kind}'; use ffn or layers")
    if settings.even and parts.head_size_key is None:
        raise InputError(
            f"even: config.json of '{kind}' has no head size, so heads cannot be pruned; use ffn or layers"
        )


def _check_channels(kind: str, settings: Prune) -> None:
    """InputError where channels are asked of an architecture without any, or something else of one that has them."""
    if kind not in CONVOLUTIONAL:
        if settings.channels < 1:
            raise InputError(f"channels: a '{kind}' model has none; use heads, ffn or layers")
        return
    asked = {
        "speedup": settings.speedup is not None,
        "latency_ms": settings.latency_ms is not None,
        "heads": settings.heads < 1,
        "ffn": settings.ffn < 1,
        "layers": settings.layers is not None,
        "channels": settings.channels == 1,
    }
    wrong = next((key for key, given in asked.items() if given), None)
    if wrong == "channels":
        raise InputError(f"channels: give the share of the channels of '{kind}' to keep, such as 0.7")
    if wrong is not None:
        raise InputError(f"{wrong}: not supported for '{kind}'; give channels, the share of its channels to keep")


def supported(decoders: bool) -> list[str]:
    """The names of the decoders, or of the others."""
    return [name for name, family in FAMILIES.items() if family.decoder == decoders]


# By `Task.graph`: architectures that can be exported, and those that can be opened where not all can.
EXPORTABLE = {"single": [*supported(False), *CONVOLUTIONAL], "seq2seq": [*SEQ2SEQ], "causal_lm": supported(True)}
OPENABLE = {"seq2seq": [*SEQ2SEQ]}


def check_openable(path: Path, kind: str, task: Task) -> None:
    """InputError where models of the architecture `kind` cannot be opened for a task."""
    known = OPENABLE.get(task.graph, [kind])
    if kind not in known:
        raise InputError(f"{path}: '{kind}' is not supported for {task.name}; supported: {', '.join(known)}")
