"""Graph optimisation: attention, GELU and layer norms fused, and weights in half precision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from paredown.compress.models.architectures import CONVOLUTIONAL, FAMILIES, SEQ2SEQ, STATIC
from paredown.compress.models.loading import Checkpoint
from paredown.runtime.errors import StepError, missing_extra

from .trace import quiet


def half(source: Path, target: Path) -> None:
    """Weights and arithmetic in float16, inputs and outputs as they were: for GPUs; a CPU computes it in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def split_skip_norms(model: Any) -> int:
    """Each SkipLayerNormalization of an ONNX model as a Sum and a LayerNormalization, in place; returns how many.

    On a CPU ONNX Runtime computes the one in scalar code: 28 tokens of 384 values take 80 microseconds, and 14 as two
    nodes, whose outputs differ by 2e-6 (1.31, one thread; `python benchmarks/layer_norm.py`). A Sum, as opening the
    model would fuse an Add with the norm again.
    """
    from onnx import helper

    nodes, count = [], 0
    for node in model.graph.node:
        if node.op_type != "SkipLayerNormalization":
            nodes.append(node)
            continue
        count += 1
        given, skip, scale, shift, bias = (*node.input, *[""] * (5 - len(node.input)))
        output, total = node.output[0], (*node.output, *[""] * (4 - len(node.output)))[3] or f"{node.output[0]}_sum"
        if bias:
            nodes.append(helper.make_node("Add", [given, bias], [f"{total}_biased"], f"{node.name}_bias"))
            given = f"{total}_biased"
        epsilon = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "epsilon")
        nodes.append(helper.make_node("Sum", [given, skip], [total], f"{node.name}_sum"))
        inputs = [total, scale, shift] if shift else [total, scale]
        nodes.append(helper.make_node("LayerNormalization", inputs, [output], node.name, axis=-1, epsilon=epsilon))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return count


def fuse(source: Path, target: Path, checkpoint: Checkpoint, *, gpu: bool = False) -> dict[str, int]:
    """Fuse attention, GELU and layer norms with ONNX Runtime's transformer optimizer; the counts are returned.

    For a `gpu` the sum before a layer norm is fused with it, for a CPU it is not (`split_skip_norms`). Raises StepError
    when a layer's attention stayed unfused: slower, and nobody would notice.
    """
    try:
        from onnxruntime.transformers.fusion_attention import FusionAttention
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.onnx_model_bert import BertOnnxModel
    except ImportError as error:
        raise missing_extra(error.name or "onnxruntime", "cpu") from None
    import onnx
    from optimum.utils import NormalizedConfigManager  # one name for what each architecture's config calls its own way
    from transformers import CONFIG_MAPPING

    kind = checkpoint.config.get("model_type", "")
    if kind in (STATIC, *CONVOLUTIONAL, *SEQ2SEQ) or not FAMILIES[kind].fuses:
        shutil.copyfile(source, target)
        return {}
    named = NormalizedConfigManager.get_normalized_config_class(kind)(CONFIG_MAPPING[kind].from_dict(checkpoint.config))
    heads, hidden = int(named.num_attention_heads), int(named.hidden_size)

    class HeadsOfEachLayer(FusionAttention):
        """A pruned layer has its own number of heads, to be read from its weights, not from the config."""

        def get_num_heads_and_hidden_size(self, reshape_q) -> tuple[int, int]:
            add = self.model.get_parent(reshape_q, 0)
            matmul = self.model.match_parent(add, "MatMul") if add is not None else None
            weight = self.model.get_initializer(matmul.input[1]) if matmul is not None else None
            if weight is None:
                return super().get_num_heads_and_hidden_size(reshape_q)
            return weight.dims[1] * heads // hidden, weight.dims[1]

    with quiet():
        model = BertOnnxModel(onnx.load(source), heads, hidden)
        model.attention_fusion = HeadsOfEachLayer(model, hidden, heads, model.attention_mask)
        model.optimize(FusionOptions("bert"))
        model.topological_sort()
        counts = {name: int(n) for name, n in model.get_fused_operator_statistics().items() if n}
        if not gpu and (split := split_skip_norms(model.model)):
            del counts["SkipLayerNormalization"]
            counts["LayerNormalization"] = counts.get("LayerNormalization", 0) + split
        model.save_model_to_file(str(target))
    depth, config = checkpoint.depth, checkpoint.config
    norms = sum(counts.get(f"{kind}LayerNormalization", 0) for kind in ("", "Skip", "Embed"))
    gelus = sum(counts.get(kind, 0) for kind in ("Gelu", "BiasGelu", "FastGelu"))
    wanted = {"attention": (counts.get("Attention", 0), depth), "layer norms": (norms, 2 * depth + 1)}
    if (config.get("hidden_act") or config.get("activation")) == "gelu":
        wanted["GELU"] = (gelus, depth)
    for part, (found, needed) in wanted.items():
        if found < needed:
            raise StepError(f"fused {part}: {found} of {needed} in {depth} layers; it would run slower")
    return counts
