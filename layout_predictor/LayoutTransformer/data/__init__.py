"""Sentences with objects, relations and centers: the grammar, readers, the tokenizer and batches."""
