"""What an image should show: prompts with their objects and relations, read from files or made for the emoji world."""
