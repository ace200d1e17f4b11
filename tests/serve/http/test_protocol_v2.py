import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.http import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import np_to_triton_dtype

from paredown.serve.errors import HTTPError
from paredown.serve.http.protocol_v2 import NUMPY, binary_outputs, decode, encode

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
ANYTHING = st.lists(VALUES, max_size=4) | st.lists(st.lists(VALUES, max_size=3), max_size=3) | VALUES
slow_machine = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
BYTES = st.lists(st.binary(max_size=20), min_size=1, max_size=5)


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    if draw(st.booleans()):
        return np.array(draw(BYTES), dtype=object)
    kind = np.dtype(NUMPY[draw(st.sampled_from(sorted(NUMPY)))])
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    return draw(hnp.arrays(kind, shape))


@slow_machine
@given(st.lists(tensors(), min_size=1, max_size=3))
def test_what_tritons_client_writes_is_what_is_read(arrays: list[np.ndarray]) -> None:
    inputs = []
    for i, array in enumerate(arrays):
        inputs.append(InferInput(f"t{i}", list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    body, length = InferenceServerClient.generate_request_body(inputs, request_id="7")
    request, values = decode(body, None if length is None else str(length))
    assert request.id == "7"
    for i, array in enumerate(arrays):
        np.testing.assert_array_equal(values[f"t{i}"], array)


@slow_machine
@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=2), elements=st.floats(-1e6, 1e6, width=32)),
    st.lists(st.text(max_size=9), min_size=1, max_size=5),
    st.sets(st.sampled_from(["numbers", "names"])),
)
def test_what_is_written_is_what_tritons_client_reads(numbers: np.ndarray, names: list[str], binary: set[str]) -> None:
    outputs = [("numbers", "FP32", numbers, list(numbers.shape)), ("names", "BYTES", names, [len(names)])]
    body, length = encode({"model_name": "m"}, outputs, binary)  # type: ignore[arg-type]
    assert (length is None) == (not binary)
    found = InferResult.from_response_body(body, header_length=length)
    np.testing.assert_array_equal(found.as_numpy("numbers"), numbers)
    got = np.asarray(found.as_numpy("names")).tolist()
    assert [name.decode() if isinstance(name, bytes) else name for name in got] == names


@slow_machine
@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """Requests that are nearly right: true JSON with wrong numbers, truncated, or with bytes changed."""
    kind = data.draw(st.sampled_from([*sorted(NUMPY), "BYTES", "STRING"]))
    shape = data.draw(st.lists(st.integers(-1, 2**40) | st.integers(0, 3), max_size=3))
    tail = data.draw(st.binary(max_size=40))
    size = data.draw(st.integers(-1, 50) | st.just(len(tail)))
    tensor: dict = {"name": "t", "shape": shape, "datatype": kind}
    if data.draw(st.booleans()):
        tensor["parameters"] = {"binary_data_size": size}
    else:
        tensor["data"] = data.draw(ANYTHING)
    head = json.dumps({"inputs": [tensor]}).encode()
    cut = data.draw(st.just(len(head)) | st.integers(0, len(head) + 60))
    header = data.draw(st.just(str(cut)) | st.none() | st.text(max_size=5))
    try:
        _, values = decode(head + tail, header)
    except HTTPError as error:
        refused = error
        assert refused.status == 400
        assert len(str(refused)) < 400
    else:
        assert values["t"].shape == tuple(shape)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"shape": [2], "datatype": "INT64", "data": [1]}, "shape [2] does not fit 1 values"),
        ({"shape": [2, 2], "datatype": "INT64", "data": [[1], [2, 3, 4]]}, "not nested as its shape"),
        ({"shape": [1], "datatype": "INT64", "data": [1.5]}, "not INT64"),
        ({"shape": [1], "datatype": "INT64", "data": [True]}, "not INT64"),
        ({"shape": [1], "datatype": "UINT8", "data": [256]}, "does not fit UINT8"),
        ({"shape": [1], "datatype": "INT64", "data": [2**80]}, "does not fit INT64"),
        ({"shape": [1], "datatype": "BYTES", "data": [1]}, "JSON strings"),
        ({"shape": [1], "datatype": "INT64"}, "neither data nor"),
        ({"shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 8}}, "8 bytes do not fit INT64"),
        ({"shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 9}}, "8 bytes are left"),
        ({"shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": 4}}, "4 bytes after the last"),
        ({"shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}, "data": [1]}, "not both"),
        ({"shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}, "longer than the bytes"),
        ({"shape": [-1], "datatype": "INT64", "data": []}, "inputs.0.shape.0"),
        ({"shape": [0, *[2**31 - 1] * 3], "datatype": "INT64", "data": []}, "no array has the shape"),
        ({"shape": [1], "datatype": "TEXT", "data": ["a"]}, "inputs.0.datatype"),
    ],
)
def test_refusals_say_where(tensor: dict, words: str) -> None:
    head = json.dumps({"inputs": [{"name": "t", **tensor}]}).encode()
    with pytest.raises(HTTPError, match=r".") as refused:
        decode(head + struct.pack("<q", 9), str(len(head)))
    assert words in str(refused.value)


def test_outputs_that_are_asked_for() -> None:
    def asked(**changes: object) -> tuple[list[str], set[str]]:
        body = {"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}], **changes}
        return binary_outputs(decode(json.dumps(body).encode(), None)[0], ["a", "b"])

    assert asked() == (["a", "b"], set())
    assert asked(parameters={"binary_data_output": True}) == (["a", "b"], {"a", "b"})
    one = {"name": "b", "parameters": {"binary_data": False}}
    assert asked(parameters={"binary_data_output": True}, outputs=[one, {"name": "a"}]) == (["b", "a"], {"a"})
    for outputs in ([{"name": "c"}], [{"name": "a"}, {"name": "a"}], [{"name": "a", "parameters": {"shared": 1}}]):
        with pytest.raises(HTTPError):
            asked(outputs=outputs)


def test_a_number_that_is_not_finite_is_never_sent_as_json() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        encode({}, [("x", "FP32", np.array([np.nan], np.float32), [1])], set())
