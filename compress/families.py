"""The architectures that can be cut and exported: one record each, in FAMILIES. Without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps its parts: paths from the model to the blocks, and from a block to its layers."""

    blocks: str
    query: str
    key: str
    value: str
    attention_out: str
    up: str
    down: str
    width_key: str = "intermediate_size"  # the config's name for the FFN width
    fuses: bool = True  # ONNX Runtime's optimizer knows its attention


_BERT = Family(
    blocks="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_out="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
)

FAMILIES = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
    "distilbert": Family(
        blocks="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_out="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        width_key="hidden_dim",
    ),
}
