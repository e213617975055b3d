import hypothesis.extra.numpy as arrays
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tokenizers import Tokenizer

from training.matrices import CHANNEL_WEIGHT_MAX, find_matrices, quantize_columns, quantize_rows
from training.onnx_graph import MICROSOFT, weights_of
from training.quantize import Plan, outlier_channels, quantize_graph
from training.reference_texts import generate_texts

INT16_MAX = 32_767

finite = st.floats(-100, 100, width=32)
matrices = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=90), elements=finite
)


@given(matrices)
def test_a_column_value_is_off_by_at_most_half_a_step(weights):
    values, scales = quantize_columns(weights)
    assert np.abs(values).max() <= CHANNEL_WEIGHT_MAX
    assert (np.abs(values * scales - weights) <= scales * 0.501).all()


@given(matrices)
def test_a_row_value_is_off_by_at_most_half_a_step(table):
    values, scales = quantize_rows(table)
    assert (np.abs(values * scales - table) <= scales * 0.501).all()


def saturating_dot(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What VPMADDUBSW and the additions after it give: pairs are summed in saturating int16."""
    products = activations.astype(np.int32)[:, :, None] * weights.astype(np.int32)[None]
    pairs = products[:, 0::2] + products[:, 1::2]
    return np.clip(pairs, -INT16_MAX - 1, INT16_MAX).sum(axis=1)


def test_the_simulation_shows_saturation_where_weights_use_all_8_bits():
    activations = np.full((1, 2), 255, dtype=np.uint8)
    assert saturating_dot(activations, np.full((2, 1), 127, dtype=np.int8))[0, 0] == INT16_MAX
    assert saturating_dot(activations, np.full((2, 1), 64, dtype=np.int8))[0, 0] == 255 * 64 * 2


def dynamic_u8(values: np.ndarray) -> np.ndarray:
    """ONNX DynamicQuantizeLinear, whose range always holds zero."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    return np.clip(np.rint(values / scale) + zero_point, 0, 255).astype(np.uint8)


def test_no_pair_of_the_shipped_weights_saturates_on_real_activations(minilm_bundle):
    model = onnx.load(str(minilm_bundle / "model.onnx"))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    fast = [node for node in model.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    assert fast
    sources = list(dict.fromkeys(node.input[0] for node in fast))
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sources)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    tokenizer = Tokenizer.from_file(str(minilm_bundle / "tokenizer.json"))
    for text in generate_texts(4, seed=23):
        ids = np.array([tokenizer.encode(text).ids[:12]], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        inputs = dict(zip(sources, session.run(sources, feed), strict=True))
        for node in fast:
            weights = numpy_helper.to_array(tensors[node.input[1]])
            assert np.abs(weights.astype(np.int32)).max() * 2 * 255 <= INT16_MAX
            row = dynamic_u8(inputs[node.input[0]].reshape(-1, weights.shape[0]))[:1]
            exact = row.astype(np.int32) @ weights.astype(np.int32)
            np.testing.assert_array_equal(saturating_dot(row, weights), exact)


def two_layer_model(rng: np.random.Generator):
    """x -> two matrices that read x -> their sum, with biases: a graph to quantize."""
    weights = {f"w{n}": rng.normal(size=(192, 128)).astype(np.float32) for n in (0, 1)}
    biases = {f"b{n}": rng.normal(size=128).astype(np.float32) for n in (0, 1)}
    nodes = []
    for n in (0, 1):
        nodes.append(helper.make_node("MatMul", ["x", f"w{n}"], [f"m{n}"]))
        nodes.append(helper.make_node("Add", [f"m{n}", f"b{n}"], [f"y{n}"]))
    nodes.append(helper.make_node("Sub", ["y0", "y1"], ["out"]))
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", floats, [None, None, 192])],
        [helper.make_tensor_value_info("out", floats, [None, None, 128])],
        [numpy_helper.from_array(value, name) for name, value in (weights | biases).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


SPLIT = Plan("channel7_split", (3, 70))


@pytest.mark.parametrize("plan", [Plan(), SPLIT], ids=["plain", "split"])
def test_matrices_that_read_one_input_are_joined_and_stay_close(plan):
    rng = np.random.default_rng(3)
    model = two_layer_model(rng)
    (matrix,) = find_matrices(model.graph)
    assert len(matrix.linears) == 2
    small = quantize_graph(model, {matrix.name: plan})
    assert sum(node.domain == MICROSOFT for node in small.graph.node) == 1
    x = rng.normal(size=(1, 7, 192)).astype(np.float32)
    expected, got = run_both(model, small, x)
    assert relative_error(got, expected) < 0.02


def run_both(model, small, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return (
        onnxruntime.InferenceSession(each.SerializeToString(), options).run(None, {"x": x})[0]
        for each in (model, small)
    )


def relative_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def test_a_matrix_planned_as_float32_is_left_as_it_is():
    model = two_layer_model(np.random.default_rng(3))
    (matrix,) = find_matrices(model.graph)
    small = quantize_graph(model, {matrix.name: Plan("float32")})
    assert sum(node.op_type == "MatMul" for node in small.graph.node) == 2


def test_matrices_that_share_weights_and_bias_have_names_and_places_of_their_own():
    rng = np.random.default_rng(11)
    nodes = [
        helper.make_node(kind, inputs, [output])
        for kind, inputs, output in (
            ("MatMul", ["x", "w"], "m0"),
            ("Add", ["m0", "b"], "y0"),
            ("MatMul", ["y0", "w"], "m1"),
            ("Add", ["m1", "b"], "out"),
        )
    ]
    model = two_layer_model(rng)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    weights = {"w": rng.normal(size=(192, 192)) / 14, "b": rng.normal(size=192)}
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 192
    first, second = find_matrices(model.graph)
    assert first.name != second.name
    plans = {first.name: Plan(), second.name: Plan("float32")}
    small = quantize_graph(model, plans)
    assert sum(node.domain == MICROSOFT for node in small.graph.node) == 1
    assert sum(node.op_type == "MatMul" for node in small.graph.node) == 1
    expected, got = run_both(model, small, rng.normal(size=(1, 7, 192)).astype(np.float32))
    assert 0 < relative_error(got, expected) < 0.02


def test_channels_split_off_no_longer_coarsen_all_others():
    rng = np.random.default_rng(5)
    model = two_layer_model(rng)
    (matrix,) = find_matrices(model.graph)
    x = rng.normal(size=(1, 7, 192)).astype(np.float32)
    x[..., [3, 70]] *= 200.0
    plain, split = (quantize_graph(model, {matrix.name: plan}) for plan in (Plan(), SPLIT))
    expected, coarse = run_both(model, plain, x)
    _, close = run_both(model, split, x)
    # What the two channels add is exact in the split graph: compare what all others add.
    without = x.copy()
    without[..., [3, 70]] = 0.0
    scale = np.linalg.norm(next(iter(run_both(model, model, without))))
    assert np.linalg.norm(coarse - expected) / scale > 0.2
    assert np.linalg.norm(close - expected) / scale < 0.02


def dequantized_product(x: np.ndarray, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What DynamicQuantizeMatMul should give, in float64, from the integers it multiplies."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255
    zero = int(np.clip(np.rint(-low / step), 0, 255))
    integers = dynamic_u8(x).astype(np.int64) - zero
    return (integers @ values.astype(np.int64)) * (scales.astype(np.float64) * step)


@pytest.mark.parametrize("extreme", [False, True], ids=["usual", "extreme"])
def test_the_graph_multiplies_the_integers_exactly_even_at_the_largest_ones(extreme):
    rng = np.random.default_rng(7)
    model = two_layer_model(rng)
    if extreme:  # every weight at a limit, every activation at 255: sums of one sign
        for tensor in model.graph.initializer:
            if tensor.name.startswith("w"):
                limit = 1.0 if tensor.name == "w0" else -1.0
                weights = np.full((192, 128), limit, np.float32)
                tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    (matrix,) = find_matrices(model.graph)
    small = quantize_graph(model, {matrix.name: Plan()})
    x = np.full((1, 7, 192), 9.0, "f4") if extreme else rng.normal(size=(1, 7, 192)).astype("f4")
    (node,) = (node for node in small.graph.node if node.op_type == "DynamicQuantizeMatMul")
    tensors = weights_of(small.graph)
    values, scales, bias = (numpy_helper.to_array(tensors[node.input[n]]) for n in (1, 2, 4))
    joined = dequantized_product(x.reshape(7, 192), values, scales) + bias
    expected = joined[:, :128] - joined[:, 128:]
    _, got = run_both(model, small, x)
    np.testing.assert_allclose(got.reshape(7, 128), expected, rtol=1e-4, atol=1e-3)


def test_channels_that_stand_out_are_found_and_ordinary_ones_are_not():
    maxima = np.random.default_rng(9).uniform(0.5, 1.0, size=500).astype(np.float32)
    assert outlier_channels(maxima) == ()
    maxima[[17, 400]] = (30.0, 4.0)
    assert outlier_channels(maxima) == (17, 400)
