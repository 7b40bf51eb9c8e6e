"""From logprobs to P(wrong), by a calibration of the model, and the thresholds it meets. Pure."""
