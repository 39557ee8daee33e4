"""Published systems, a folder each, over the engines below; the registry is their only list."""
