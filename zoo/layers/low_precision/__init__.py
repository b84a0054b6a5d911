"""Matrix products in fewer bits than float32, for inference on a CPU: bf16, fp16, int8 and int4.

``modes.set_precision`` marks the linear layers of a model, ``products`` chooses a kernel by number of rows and by what the CPU can do, and
``packings`` keeps the repacked matrices. The weights themselves are not changed, so that saving and exporting give what was loaded.
"""
