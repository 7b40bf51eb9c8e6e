"""Says before any work which files of a model would fit a device, how fast and how exact."""
