"""Training: chapter 07. The document's loop, and `fit`, which goes on where it was cut off."""
