"""Offline: from labelled prompts to a calibration, and recorded answers through the policies."""
