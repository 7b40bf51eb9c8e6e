"""What a terminal needs: text that cannot harm it, lines that fit, and what is typed meanwhile."""
