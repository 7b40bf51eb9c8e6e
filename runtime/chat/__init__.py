"""Between a conversation and tokens: the prompt from a template, the answer from a pipeline."""
