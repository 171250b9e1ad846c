"""Names, shapes and layers of PEFT's tensors, with scanned layers and without."""

import numpy as np
import pytest
from hf_files import adapted

from pubswap_jax.weights import peft_tensors


@pytest.mark.parametrize("scan_layers", [False, True])
def test_each_tensor_is_the_transpose_of_its_layers_array(tmp_path, scan_layers):
    config, _, adapter = adapted(tmp_path, "llama", scan_layers, lora_targets=("v_proj", "down_proj"))
    matrices, rank, alpha = peft_tensors.peft_matrices(config, adapter, {})
    assert (rank, alpha) == (3, 5.0)
    assert {name: matrix.shape for name, matrix in matrices.items()} == peft_tensors.lora_shapes(config, 3)
    assert len(matrices) == 2 * 2 * config.num_layers
    name = peft_tensors.peft_name("model.layers.1.mlp.down_proj", "B")
    assert name == "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    layer = adapter["layers" if scan_layers else "layers_1"]["mlp"]["down_proj"]["b"]
    np.testing.assert_array_equal(matrices[name], (layer[1] if scan_layers else layer).T)


def test_layers_with_different_ranks_are_refused(tmp_path):
    config, _, adapter = adapted(tmp_path, lora_targets=("q_proj", "down_proj"))
    family = config.adapter
    uneven = family._replace(peft=lambda frozen, trained: (trained["a"], trained["b"], len(trained["a"])))
    with pytest.raises(ValueError, match=r"different \(rank, alpha\): \[\(3, 16.0\), \(3, 24.0\)\]"):
        peft_tensors.peft_matrices(config.replace(adapter=uneven), adapter, {})
