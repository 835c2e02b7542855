"""Models and training runs on disk, as safetensors: nothing that is read is executed.

archive      one file: a header in JSON and tensors, written whole or not at all, read with suspicion
checkpoint   what of a model, and of its optimizer, stands in a file
resume       a training run that goes on where it was interrupted
"""
