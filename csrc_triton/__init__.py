"""Kernels of the GTW loss and their launchers. Imports torch and triton only.

`reference` states each formula in plain torch, `torch_path` is the CPU path, `gtw_cross_entropy` the Triton
kernel, `linear_gtw_cross_entropy` the chunked product with the vocabulary. Triton is imported by its kernel,
so that the package works where triton does not install.
"""
