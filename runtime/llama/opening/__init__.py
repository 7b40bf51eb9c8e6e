"""From a GGUF file to a backend, with what is measured at the first load of a model on a device."""
