"""Sentences with objects, relations and centres: the grammar, readers, the tokenizer and batches."""
