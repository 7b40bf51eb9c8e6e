"""spillover engines, and the process that converts and compares while a model is served."""
