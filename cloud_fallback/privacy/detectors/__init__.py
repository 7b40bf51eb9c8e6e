"""Each detector takes plain text and gives spans: pure, and linear in the text's length."""
