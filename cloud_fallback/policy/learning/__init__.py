"""From labelled prompts to a model's calibration: traces, labels, fits, measures. Offline."""
