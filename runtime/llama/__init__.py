"""The GGUF backend: llama.cpp through the ctypes API of llama-cpp-python."""
