"""Models and training runs on disk, as safetensors: nothing that is read is executed.

archive      one file: a header in JSON and tensors, written whole or not at all, read with distrust
checkpoint   a model, and its optimizer
resume       a training run that goes on where it was interrupted
"""
