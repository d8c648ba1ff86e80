"""Images of prompts by several methods: what to make, where it is kept, how the work is shared."""
