"""Acting on a decision: what becomes the champion, where it is published, and the way back."""
