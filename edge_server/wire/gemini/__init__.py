"""The dialect of Gemini."""
