"""What runs on a CUDA GPU alone: fused kernels for the einsum layer, in Triton, and training steps as CUDA graphs.

`kernels` is imported when a layer first needs it, so `import einet` needs no Triton.
"""
