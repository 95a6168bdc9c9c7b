"""Compressed torch networks: weights cut into blocks that share the codewords of one small codebook per layer.

Iterative product quantization takes turns: compress some layers, train all that is left, compress the next ones.

    for layers in ("fc1", "fc2"):
        quantize(model, layers, block_size=8, n_codewords=256)
        train(model)                      # with a new optimizer: the codebooks are parameters now
    vq.save("model.vq", extract(model))
    restore(fresh_model, vq.load("model.vq"))

Stock et al. 2020, "And the bit goes down: revisiting the quantization of neural networks"; Fan et al. 2021,
"Training with quantization noise for extreme model compression".
"""

from vqcore.compress.network import CompressedLayer, CompressedNetwork, NetworkLedger, extract, ledger, restore
from vqcore.compress.quantizing import add_noise, quantize, remove_noise

__all__ = [
    "quantize", "add_noise", "remove_noise", "ledger", "extract", "restore",
    "NetworkLedger", "CompressedNetwork", "CompressedLayer",
]  # fmt: skip
