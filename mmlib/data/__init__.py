"""Data: the generated world, the reader's own table, public sets. Nothing here is a model."""
