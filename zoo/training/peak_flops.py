"""Peak floating-point operations per second of GPUs, to which the rate of a run is compared."""

import torch

# Dense bf16 (V100, T4: fp16) with fp32 sums, by a part of the device's name. Sources: data sheets of NVIDIA and AMD, without sparsity, as
# torchtitan ``tools/utils.py`` lists them. The first match counts, so that longer names come first.
PEAKS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "MI325X": 1.307e15,
    "MI300X": 1.307e15,
    "MI250X": 191.5e12,  # one of the two dies, which is one device
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the peak of a device in bf16 or fp16; None for other devices and for fp32, whose peak depends on settings of torch."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)
