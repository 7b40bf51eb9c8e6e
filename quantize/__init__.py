"""Convert, quantize and evaluate models, and choose one for a device."""
