"""The null GPU: PyTorch's CUDA code on a machine without a GPU. See README.md."""
